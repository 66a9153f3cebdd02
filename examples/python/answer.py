"""Answer pictures with a file that `regraft export` wrote, without Regraft: NumPy, Pillow and ONNX Runtime.

    pip install numpy pillow onnxruntime
    python answer.py model.onnx a.jpg b.png

For pictures of 8 bits a channel. Regraft itself also bounds what a file may take and reads deeper ones.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def pixels(file, rules):
    """What the network is given of a picture: uint8 [S, S, 3], by the rules that the model tells."""
    size, fit = rules["size"], rules["fit"]
    with Image.open(file) as image:
        if image.format in ("JPEG", "MPO") and rules["jpeg_scale_margin"] is not None:
            # A large JPEG is decoded at 1/8, 1/4 or 1/2 where what is kept of it stays large enough.
            kept = max(image.size) if fit == "pad" else min(image.size)
            kept *= rules["crop_fraction"] if fit == "crop" else 1
            for scale in (8, 4, 2):
                if kept >= scale * size * rules["jpeg_scale_margin"]:
                    image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
                    break
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.mode or "transparency" in upright.info:
            layer = upright.convert("RGBA")
            ground = Image.new("RGBA", layer.size, (*rules["background"], 255))
            upright = Image.alpha_composite(ground, layer)
        rgb = upright.convert("RGB")
    filter_ = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
               "lanczos": Image.Resampling.LANCZOS}[rules["interpolation"]]
    width, height = rgb.size
    if fit == "pad":
        scale = size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        square = Image.new("RGB", (size, size), tuple(rules["pad_colour"]))
        square.paste(rgb.resize(inner, filter_), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return np.asarray(square)
    box = (0, 0, width, height)
    if fit == "crop":
        side = min(width, height) * rules["crop_fraction"]
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return np.asarray(rgb.resize((size, size), filter_, box=box))


def main(model, *files):
    """Print the label of each picture and its probability."""
    session = onnxruntime.InferenceSession(Path(model).read_bytes(), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    labels, rules = json.loads(about["labels"]), json.loads(about["preprocessing"])
    for file in files:
        (probabilities_1K,) = session.run(["probabilities"], {"pixels": pixels(file, rules)[None]})
        best = int(probabilities_1K[0].argmax())
        print(f"{file}\t{labels[best]}\t{probabilities_1K[0, best]:.6f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("type: python answer.py MODEL.onnx PICTURE ...")
    main(*sys.argv[1:])
