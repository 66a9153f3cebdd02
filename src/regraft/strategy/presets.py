"""What ``--strategy`` stands for, as plans."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.records.plan import BackbonePlan, Phase, Plan, PreprocessingPlan

_CROP = "random_resized_crop(scale_low=0.6, scale_high=1)"

#: What suits photographs and does no harm to most other images.
AUGMENT = ("horizontal_flip", _CROP)

#: The same where nobody has measured yet that it does no harm to these images.
MEASURED = ("horizontal_flip(keep=measured)", _CROP)


def strategy_plan(strategy: str, backbone: BackbonePlan, preprocessing: PreprocessingPlan,
                  augment: Sequence[str] = MEASURED) -> Plan:
    """The plan of ``partial`` (the last two stages learn) or ``full`` (everything learns), from the solved head.

    Depthwise kernels stay as they are in ``partial``: they are few, and their gradient takes a fifth of a step.
    Figures behind the numbers stand in LOG.md.
    """
    if strategy == "partial":
        phase = Phase("last stages", ("stages[-2:]", "head"), ("depthwise",), ("share(0.5)", "head"), epochs=4,
                      rate=8e-4, head_rate=1.5e-5, weight_decay=0.01, augment=tuple(augment), views=2,
                      label_smoothing=0.1)
    else:
        phase = Phase("everything", ("all",), epochs=6, rate=3e-4, head_rate=1.5e-5, law="geometric", factor=1.3,
                      weight_decay=0.01, augment=tuple(augment), label_smoothing=0.1)
    return Plan(strategy, f"--strategy {strategy}", backbone=backbone, preprocessing=preprocessing, phases=(phase,))
