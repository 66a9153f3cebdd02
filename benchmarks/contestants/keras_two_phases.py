"""Keras' guide to transfer learning: ten epochs of a new head on the frozen network, ten of its last third with it.

Pictures are squeezed to 224 x 224 pixels, mirrored and turned at random; Adam at 1e-3, then at 1e-5; batch norm keeps
its statistics. The network is written down in Keras' layers, with the weights that all contestants have.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.contestants.table import Rows, read_table, report

train, test = read_table(sys.argv[1])
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 10
classes = sorted({label for _, label in train})


def weights() -> list[Any]:
    """The tensors of the network in their order; another process reads them, as PyTorch and TensorFlow crash in one."""
    with tempfile.TemporaryDirectory() as folder:
        code = ("import sys, numpy\nfrom benchmarks.contestants.network import weights\n"
                "numpy.savez(sys.argv[1], *(tensor.numpy() for tensor in weights().values()))\n")
        subprocess.run([sys.executable, "-c", code, f"{folder}/weights.npz"], check=True)
        with np.load(f"{folder}/weights.npz") as found:
            return [found[f"arr_{number}"] for number in range(len(found.files))]


def lite0() -> Any:
    """EfficientNet-Lite0 up to its pooled features, in its ImageNet weights."""
    tensors = iter(weights())

    def layer(x: Any, kernel: int = 1, stride: int = 1, depthwise: bool = False, active: bool = True) -> Any:
        weight = next(tensors)
        if depthwise:
            conv = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)
            weight = weight.transpose(2, 3, 0, 1)
        else:
            conv = layers.Conv2D(len(weight), kernel, stride, "same", use_bias=False)
            weight = weight.transpose(2, 3, 1, 0)
        norm = layers.BatchNormalization(epsilon=1e-3)
        x = norm(conv(x))
        conv.set_weights([weight])
        norm.set_weights([next(tensors) for _ in range(4)])
        return layers.ReLU(6)(x) if active else x

    x = pixels = keras.Input((224, 224, 3))
    x = layer(x, 3, 2)
    for stage, (blocks, kernel, stride) in enumerate(
            [(1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1)]):
        for block in range(blocks):
            before = x
            if stage:
                x = layer(x)
            x = layer(x, kernel, stride if block == 0 else 1, depthwise=True)
            x = layer(x, active=False)
            if block:
                x = layers.Add()([before, x])
    return keras.Model(pixels, layers.GlobalAveragePooling2D()(layer(x)))


def pictures(rows: Rows, shuffled: bool = False) -> Any:
    """Batches of 32 pictures of 0 to 255, and the numbers of their classes."""

    def look(path: Any, label: Any) -> Any:
        picture = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
        return tf.image.resize(picture, (224, 224)), label

    numbers = [classes.index(label) for _, label in rows]
    found = tf.data.Dataset.from_tensor_slices(([path for path, _ in rows], numbers))
    if shuffled:
        found = found.shuffle(len(rows), seed=0)
    return found.map(look, tf.data.AUTOTUNE).batch(32).prefetch(tf.data.AUTOTUNE)


keras.utils.set_random_seed(0)
base = lite0()
base.trainable = False
inputs = keras.Input((224, 224, 3))
x = layers.RandomRotation(0.1)(layers.RandomFlip("horizontal")(inputs))
x = base(layers.Rescaling(1 / 127.5, -1)(x), training=False)
model = keras.Model(inputs, layers.Dense(len(classes))(layers.Dropout(0.2)(x)))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
learn = pictures(train, shuffled=True)
model.compile(keras.optimizers.Adam(1e-3), loss)
model.fit(learn, epochs=epochs, verbose=0)
base.trainable = True
for one in base.layers[:len(base.layers) * 2 // 3]:
    one.trainable = False
model.compile(keras.optimizers.Adam(1e-5), loss)
model.fit(learn, epochs=epochs, verbose=0)
Path(sys.argv[2]).mkdir(parents=True)
model.save(Path(sys.argv[2]) / "model.keras")
answers = model.predict(pictures(test), verbose=0).argmax(1)
report(float(np.mean(answers == [classes.index(label) for _, label in test])))
