"""Where networks are cut: both sides of a cut are the whole, and training behind one moves what is said to learn."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import regraft
from regraft.errors import BackboneError, TrainingError, UnknownNameError
from regraft.networks.build import Network, untrained
from regraft.networks.graph import Graph, Prefix, Suffix
from regraft.networks.layers import FRONT_STAGE, keras_layers
from regraft.records.networks import BackboneDetail, Cut, Readout
from regraft.records.plan import HeadPlan, Phase
from regraft.records.training import PhaseForecast
from regraft.strategy.changing import on_backbone, override
from regraft.strategy.library import recipe
from regraft.training.head import TrainableHead
from regraft.training.phases import Understood, understand
from regraft.training.rates import make_optimiser

#: How far both sides of a cut may differ from the whole: of the largest logit, or of 1.
AGREES = 1e-5

BATCHES = (1, 2, 5)

#: Small ones of several kinds, with the side of their input.
QUICK = {"efficientnet_lite0": 64, "resnet10t": 64, "torchvision:resnet18": 64, "test_vit": 160, "test_convnext": 160,
         "torchvision:mobilenet_v3_small": 64, "plain:cnn": 64}

#: Families, at the smallest input that each takes, or its own.
SLOW = {
    "torchvision:vgg11": 64, "torchvision:vgg11_bn": 64, "torchvision:vgg16": 64, "vgg13_bn": 64,
    "torchvision:resnet50": 64, "resnext50_32x4d": 64, "seresnet50": 64, "res2net50_26w_4s": 64,
    "torchvision:wide_resnet50_2": 64, "resnetv2_50": 64,
    "torchvision:googlenet": 96, "torchvision:inception_v3": 96, "inception_v4": 96, "xception41": 96,
    "torchvision:densenet121": 64, "densenet121": 64,
    "torchvision:mobilenet_v2": 64, "mobilenetv2_100_same": 64, "mobilenetv3_large_100": 64,
    "mobilenetv4_conv_small": 64, "torchvision:mnasnet0_5": 64,
    "efficientnet_b0": 64, "torchvision:efficientnet_b0": 64, "efficientnetv2_rw_t": 64,
    "regnety_002": 64, "torchvision:regnet_x_400mf": 64,
    "convnext_atto": 64, "convnextv2_atto": 64, "torchvision:convnext_tiny": 64,
    "torchvision:shufflenet_v2_x0_5": 64, "torchvision:squeezenet1_1": 64, "ghostnet_100": 64, "hardcorenas_a": 64,
    "vit_tiny_patch16_224": 224, "deit_tiny_patch16_224": 224, "deit_tiny_distilled_patch16_224": 224,
    "torchvision:vit_b_32": 224, "mobilevit_xxs": 128, "levit_128s": 224, "cait_xxs24_224": 224,
    "torchvision:swin_t": 64, "swin_tiny_patch4_window7_224": 224,
    "maxvit_rmlp_pico_rw_256": 256, "xcit_nano_12_p16_224": 224, "efficientformer_l1": 224,
    "efficientformerv2_s0": 224, "poolformer_s12": 64, "coat_lite_tiny": 224, "pvt_v2_b0": 64, "mixer_s32_224": 224,
    "convmixer_768_32": 64, "fastvit_t8": 256, "repvgg_a0": 64, "edgenext_xx_small": 64,
}


@dataclass(frozen=True)
class Traced:
    """A network whose every part does something, and its graph."""

    network: Network
    graph: Graph
    size: int

    def readout(self, name: str) -> Readout:
        return next(r for r in self.network.readouts if r.name == name)


def trace(name: str, size: int) -> Traced:
    network = untrained(name, size)
    with torch.no_grad():
        # Some start with branches, or a head, that give nothing but zeros.
        generator = torch.Generator().manual_seed(0)
        for parameter in network.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return Traced(network, Graph(network.module, size, network.readouts), size)


@functools.cache
def quick(name: str) -> Traced:
    """A quick network; whoever changes its tensors puts them back."""
    return trace(name, QUICK[name])


def spread(cuts: Sequence[Cut], count: int) -> list[Cut]:
    """Some cuts from first to last."""
    return [cuts[i * (len(cuts) - 1) // max(count - 1, 1)] for i in range(min(count, len(cuts)))]


def pictures(traced: Traced, count: int) -> Tensor:
    return torch.randn((count, 3, traced.size, traced.size), generator=torch.Generator().manual_seed(count))


def both_sides_are_the_whole(traced: Traced, cuts_a_batch: int = 4) -> None:
    graph, module = traced.graph, traced.network.module
    whole_readout = traced.readout("logits")
    with torch.no_grad():
        for batch in BATCHES:
            x = pictures(traced, batch)
            whole = module(x)
            assert float(whole.abs().max()) > 0
            for cut in spread(graph.cuts, cuts_a_batch):
                before = Prefix(graph, cut, [])(x)
                assert before.shape == (batch, cut.numbers), cut.name
                after = Suffix(graph, cut, [whole_readout])(before.reshape(batch, *cut.shape))
                far = float((after - whole).abs().max()) / max(1.0, float(whole.abs().max()))
                assert far <= AGREES, f"{cut.name} at batch {batch}"


def one_step_moves_what_learns(traced: Traced, words: tuple[str, ...], frozen: tuple[str, ...] = ()) -> Understood:
    """A head in place of the network's own, one step of SGD behind the cut; the tensors are put back."""
    graph, module = traced.graph, traced.network.module
    last = traced.readout("last")
    head = TrainableHead(HeadPlan(start="random"), ("last",), last.dim, 3, seed=0)
    # Decay moves what has a gradient, even one of zeros, and nothing else.
    phase = Phase("p", words, frozen, optimiser="sgd", rate=0.1, weight_decay=0.1, decay_norms=True)
    found = understand(phase, graph, [last], sum(p.numel() for p in head.parameters()))
    assert found.cut is not None
    assert found.cut.trainable
    assert found.behind == (last,)
    suffix = Suffix(graph, found.cut, found.behind)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in found.learns.parameters)
    optimiser = make_optimiser(found.phase, found.groups, module, head, found.learns.head)
    with torch.no_grad():
        activation = Prefix(graph, found.cut, [])(pictures(traced, 2)).reshape(2, *found.cut.shape)
    training = [m for m in suffix.modules_run if not isinstance(m, nn.modules.batchnorm._BatchNorm)]
    try:
        for part in training:
            part.training = True
        loss = nn.functional.cross_entropy(head(suffix(activation)), torch.tensor([0, 2]))
        torch.autograd.backward(loss)
        optimiser.step()
        # Modules that are shared stand in the state under each of their names.
        names = {p.data_ptr(): name for name, p in module.named_parameters()}
        moved = {names.get(tensor.data_ptr(), name) for name, tensor in module.state_dict().items()
                 if not torch.equal(tensor, before[name])}
        assert moved == set(found.learns.parameters)
        shares = {id(p): p.numel() for group in optimiser.param_groups for p in group["params"]}
        assert sum(shares.values()) == found.learning == sum(rung.parameters for rung in found.ladder)
    finally:
        module.eval().requires_grad_(False)
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                tensor.copy_(before[name])
    return found


# -- cuts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_both_sides_of_a_cut_are_the_whole(name: str) -> None:
    traced = quick(name)
    cuts = traced.graph.cuts
    assert cuts[0].position == -1
    assert [cut.position for cut in cuts] == sorted({cut.position for cut in cuts})
    assert cuts[0].parameters == sum(p.numel() for p in traced.network.module.parameters())
    for figures in ([cut.parameters for cut in cuts], [cut.multiply_adds for cut in cuts]):
        assert figures == sorted(figures, reverse=True), "less and less lies behind"
    both_sides_are_the_whole(traced)


@pytest.mark.parametrize("name", QUICK)
def test_one_step_moves_exactly_what_learns(name: str) -> None:
    traced = quick(name)
    some = one_step_moves_what_learns(traced, ("stages[-1:]", "head"))
    assert 0 < some.learning < some.total
    every = one_step_moves_what_learns(traced, ("all",))
    assert every.learning == every.total
    assert every.cut == traced.graph.cuts[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_families(name: str) -> None:
    traced = trace(name, SLOW[name])
    cuts = traced.graph.cuts
    trainable = [cut for cut in cuts if cut.trainable]
    print(f"{name} at {traced.size}: {len(cuts)} cuts, {len(trainable)} trainable")
    assert len(trainable) >= 3
    both_sides_are_the_whole(traced, 6)
    found = one_step_moves_what_learns(traced, ("stages[-1:]", "head"))
    assert 0 < found.learning < found.total
    one_step_moves_what_learns(traced, ("all",), ("norms",))


def test_frozen_layers_behind_the_cut_stay_frozen() -> None:
    traced = quick("efficientnet_lite0")
    found = one_step_moves_what_learns(traced, ("stages[-3:]", "head"), ("norms", "stage7"))
    names = found.learns.parameters
    assert any(name.startswith("blocks.4.") for name in names)
    assert not any(name.startswith("blocks.5.") or ".bn" in name for name in names)
    assert found.cut == one_step_moves_what_learns(traced, ("stages[-3:]",), ("norms",)).cut


def test_where_something_acts_only_in_training_a_cut_is_only_found() -> None:
    """torchvision's stochastic depth leaves no trace: a cut inside the module that holds it would lose it."""
    traced = quick("torchvision:mobilenet_v3_small")
    assert all(cut.trainable for cut in traced.graph.cuts), "it has no stochastic depth"
    traced = trace("torchvision:efficientnet_b0", 64)
    only_found = [cut for cut in traced.graph.cuts if not cut.trainable]
    assert len(only_found) >= 10
    for cut in only_found:
        name, _, reason = cut.reason.partition(" ")
        assert reason == "acts only in training, and leaves no trace in a module that would be cut"
        assert type(traced.network.module.get_submodule(name)).__name__ == "StochasticDepth"
        assert cut.module.startswith(name.rpartition(".")[0])
    both_sides_are_the_whole(traced)
    # What learns from inside such a block on is cut in front of the block, where its stochastic depth acts.
    found = one_step_moves_what_learns(traced, ("features.4.1.block.2", "features.5", "head"))
    assert found.cut is not None
    assert found.cut.module == "features.4.0"
    suffix = Suffix(traced.graph, found.cut, found.behind)
    depth = traced.network.module.get_submodule("features.4.1.stochastic_depth")
    assert any(part is depth for part in suffix.modules_run)


def test_a_stage_without_a_trace_is_left_out() -> None:
    """A module that does nothing in this network is passed through, and leaves no operation to cut behind."""
    network = quick("test_vit").network
    lost = Readout("stage9", "norm_pre", "none", 8)
    graph = Graph(network.module, QUICK["test_vit"], [*network.readouts, lost])
    assert lost.name not in graph.stage_ends
    assert list(graph.stage_ends) == list(quick("test_vit").graph.stage_ends)
    with pytest.raises(BackboneError, match="norm_pre leaves no trace, so nothing behind stage9 can learn; read "):
        graph.read_at(lost)


def test_the_head_may_have_a_rate_of_its_own() -> None:
    traced = quick("efficientnet_lite0")
    last = traced.readout("last")
    head = TrainableHead(HeadPlan(start="random"), ("last",), last.dim, 3, seed=0)
    numbers = sum(p.numel() for p in head.parameters())
    phase = Phase("p", ("stages[-2:]", "head"), rate=0.1, head_rate=0.01)
    found = understand(phase, traced.graph, [last], numbers)
    assert [(rung.label, rung.rate) for rung in found.ladder] == [("the head", 0.01), ("all that learns", 0.1)]
    assert found.ladder[0].parameters == numbers
    assert sum(rung.parameters for rung in found.ladder) == found.learning
    optimiser = make_optimiser(found.phase, found.groups, traced.network.module, head, found.learns.head)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in head.parameters()} == {0.01}
    assert sorted(set(rates.values())) == [0.01, 0.1]
    alone = understand(Phase("p", ("head",), rate=0.1, head_rate=0.01), traced.graph, [last], numbers)
    assert [(rung.rate, rung.parameters) for rung in alone.ladder] == [(0.01, numbers)]


def test_depthwise_names_kernels_of_single_channels_and_the_norms_behind_them() -> None:
    frozen = {}
    for name in ("efficientnet_lite0", "test_convnext", "resnet10t"):
        traced = quick(name)
        reads = [traced.readout("last")]
        learns = [understand(Phase("p", ("all",), words), traced.graph, reads, 0).learns.parameters
                  for words in ((), ("depthwise",))]
        frozen[name] = [one for one in learns[0] if one not in learns[1]]
    lite = frozen["efficientnet_lite0"]
    assert len(lite) == 16 * 3, "a kernel, and a norm's weight and bias, in each block"
    assert lite[:3] == ["blocks.0.0.conv_dw.weight", "blocks.0.0.bn1.weight", "blocks.0.0.bn1.bias"]
    assert lite[-3:] == ["blocks.6.0.conv_dw.weight", "blocks.6.0.bn2.weight", "blocks.6.0.bn2.bias"]
    assert frozen["test_convnext"]
    assert all(".conv_dw." in one for one in frozen["test_convnext"]), "its norms read what was turned around"
    assert frozen["resnet10t"] == []


def test_a_padding_in_front_is_no_frozen_part() -> None:
    traced = quick("efficientnet_lite0")
    assert traced.graph.cuts[1].parameters == traced.graph.cuts[0].parameters, "the picture, padded"
    assert traced.graph.cut_for(["conv_stem.weight"]).position == -1


def test_a_network_without_classifier() -> None:
    with pytest.raises(BackboneError, match="no layer of the network makes its class scores"):
        untrained("eva02_tiny_patch14_224")


# -- what is told of a backbone --------------------------------------------------------------------


def test_the_cuts_of_a_backbone_are_told() -> None:
    detail = regraft.backbones("efficientnet_lite0")
    assert isinstance(detail, BackboneDetail)
    assert (detail.head.module, detail.head.inputs, detail.head.outputs) == ("classifier", 1280, 1000)
    assert [row.stage for row in detail.cuts] == [FRONT_STAGE, *(f"stage{n}" for n in range(1, 9))]
    assert (detail.found_cuts, detail.trainable_cuts, detail.layers) == (77, 77, ())
    six = detail.cuts[6]
    assert (six.cut.module, six.cut.shape, six.bytes) == ("blocks.4", (112, 14, 14), 112 * 14 * 14 * 2)
    own = 1280 * 1000 + 1000  # the classifier, which is replaced
    assert (six.cut.parameters - own) / (detail.cuts[0].cut.parameters - own) == pytest.approx(0.79, abs=0.005)
    assert six.cut.multiply_adds / detail.cuts[0].cut.multiply_adds == pytest.approx(0.37, abs=0.005)
    assert sum(stage.parameters or 0 for stage in detail.stages) + detail.cuts[-1].cut.parameters == 4_652_008
    text = repr(detail)
    assert "  77 cuts, 77 of them trainable; the last of each stage (--all shows every one):\n" in text
    assert "    stage6  blocks.4  112 x 14 x 14   446,784 parameters\n" in text
    assert BackboneDetail.from_dict(detail.to_dict()) == detail


def test_every_cut_with_every_layer() -> None:
    detail = regraft.backbones("torchvision:resnet18", all=True)
    assert isinstance(detail, BackboneDetail)
    assert len(detail.cuts) == detail.found_cuts == 24
    assert [layer.number for layer in detail.layers] == list(range(1, len(detail.layers) + 1))
    assert sum(layer.parameters for layer in detail.layers) == 11_689_512
    text = repr(detail)
    assert "  24 cuts, 24 of them trainable; with the layers:\n" in text
    rows = [line.split() for line in text.partition("with the layers:\n")[2].splitlines()[1:]]
    numbered = [int(row[1]) for row in rows]
    assert numbered == sorted(numbered)
    assert set(numbered) == set(range(len(detail.layers) + 1)), "every layer, and the front"
    assert text.count("no cut") == len(detail.layers) - len({row.layer for row in detail.cuts} - {0})


def test_a_network_that_cannot_be_traced_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.networks import build

    class Refusing(nn.Module):
        """Asks for a picture's pixels to decide what to do."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=2)
            self.fc = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            if x.mean() > 100:
                x = x * 2
            scores: Tensor = self.fc(x.mean((2, 3)))
            return scores

    monkeypatch.setattr(build, "build_plain", lambda name, size: Refusing())
    detail = regraft.backbones("plain:cnn")
    assert isinstance(detail, BackboneDetail)
    assert detail.reason.startswith("the network can't be traced (")
    assert [(stage.name, stage.module, stage.shape) for stage in detail.stages] == [("stage1", "stem", None)]
    assert f"  no cuts: {detail.reason}" in repr(detail)
    (plan,) = regraft.plan(plan="baseline-cnn").plans
    assert plan.network == ()
    assert plan.notes == (f"no figures of the phases: {detail.reason}",)
    assert "note           no figures of the phases: the network can't be traced" in repr(plan)


# -- what a phase's words mean ---------------------------------------------------------------------


def phase_of(name: str, words: tuple[str, ...], own: bool = True, **others: object) -> Understood:
    traced = quick(name)
    return understand(replace(Phase("p", words), **others), traced.graph, [traced.readout("last")], 10,  # type: ignore[arg-type]
                      own)


def test_numbers_of_layers_mean_nothing_in_another_network() -> None:
    kept = phase_of("efficientnet_lite0", ("layers[100:]", "head"), elsewhere=("stage8", "head"))
    assert not kept.instead
    assert kept.phase.learns == ("layers[100:]", "head")
    other = phase_of("efficientnet_lite0", ("layers[100:]", "head"), own=False, elsewhere=("stage8", "head"))
    assert other.instead == "stage8, head learns instead: what the plan names belongs to another network"
    assert {name.partition(".")[0] for name in other.learns.parameters} == {"blocks"}
    frozen = phase_of("efficientnet_lite0", ("all",), own=False, frozen=("layers[:8]",), elsewhere=("all",))
    assert (frozen.phase.frozen, frozen.learning) == ((), frozen.total)
    # Where nothing stands in for them, they are what the user wants.
    as_said = phase_of("efficientnet_lite0", ("layers[100:]", "head"), own=False)
    assert as_said.learns == kept.learns


def test_names_of_modules_are_looked_up_in_another_network() -> None:
    found = phase_of("torchvision:resnet18", ("layer4", "head"), own=False, elsewhere=("all",),
                     over=("fc", "layer4", "layer3"), law="geometric")
    assert not found.instead
    assert [group.label for group in found.groups] == ["fc", "layer4"]
    found = phase_of("efficientnet_lite0", ("layer4", "head"), own=False, elsewhere=("all",), over=("fc", "layer4"),
                     law="groups", group_rates=(1e-3, 1e-4))
    assert found.instead == ("all learns instead: what the plan names belongs to another network; rates fall over the "
                             "stages: the network has no fc, layer4")
    assert found.groups[0].label == "after the stages"
    found = phase_of("efficientnet_lite0", ("all",), own=False, over=("fc", "layer4"), law="linear", last_rate=1e-5)
    assert found.instead == "rates fall over the stages: the network has no fc, layer4"
    assert [group.rate for group in found.groups][::8] == pytest.approx([1e-3, 1e-5])
    with pytest.raises(UnknownNameError, match="no module of the network is called 'fc'"):
        phase_of("efficientnet_lite0", ("all",), over=("fc",))
    with pytest.raises(UnknownNameError, match="no module of the network is called 'layer4'"):
        phase_of("efficientnet_lite0", ("layer4",), own=False)


def test_shares_count_what_the_answer_depends_on() -> None:
    found = phase_of("efficientnet_lite0", ("share(0.5)",))
    assert 0.5 <= found.learning / (found.total - 10) < 0.65
    assert "classifier.weight" not in found.learns.parameters


def test_one_stage_or_layer_by_its_number() -> None:
    assert phase_of("efficientnet_lite0", ("stages[5]",)).learns == phase_of(
        "efficientnet_lite0", ("stage6",)).learns
    assert phase_of("torchvision:resnet18", ("layers[1]",)).learns.parameters == ("conv1.weight",)
    assert len(keras_layers(quick("torchvision:resnet18").graph)) > 60


def test_nothing_learns_is_an_error() -> None:
    with pytest.raises(TrainingError, match="nothing learns of what the head's answer depends on"):
        phase_of("efficientnet_lite0", ("classifier",))


def test_a_plan_remembers_which_network_its_words_were_written_for() -> None:
    plan = override(recipe("digits-vgg16-freeze8"), ["backbone.name=resnet50"])
    assert (plan.backbone.name, plan.backbone.words_of) == ("resnet50", "torchvision:vgg16")
    assert not plan.backbone.own_words
    again = on_backbone(plan, "resnet18")
    assert (again.backbone.name, again.backbone.words_of) == ("resnet18", "torchvision:vgg16")
    assert on_backbone(plan, "torchvision:vgg16").backbone.own_words
    # Words that mean something everywhere need no memory.
    assert override(recipe("vgg19-full"), ["backbone.name=resnet50"]).backbone.words_of is None
    # Words given anew are of the new network, and so is what stands in for them.
    anew = override(plan, ["phases.0.frozen=layers[:20]"])
    assert (anew.phases[0].frozen, anew.phases[0].elsewhere) == (("layers[:20]",), ())
    both = override(plan, ["phases.0.elsewhere=all", "phases.0.frozen=layers[:20]"])
    assert both.phases[0].elsewhere == ("all",)


def test_the_plan_tells_what_the_training_does(crops: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('name = "p"\n[preprocessing]\nsize = 64\n[head]\nreads = ["last"]\n[[phases]]\nname = "two"\n'
                    'learns = ["stages[-2:]", "head"]\nlaw = "geometric"\naugment = "horizontal_flip"\nviews = 2\n',
                    "utf-8")
    (told,) = regraft.plan(crops, plan=file).plans
    (facts,) = told.network
    with contextlib.closing(regraft.iter_epochs(crops, plan=file, out=tmp_path / "m", quiet=True)) as events:  # type: ignore[type-var]
        event = next(events)
    assert isinstance(event, PhaseForecast)
    assert (facts.trainable, facts.parameters, facts.head) == (event.learning, event.total, event.head)
    assert facts.rates == {rung.label: rung.rate for rung in event.ladder}
    assert facts.sizes == {rung.label: rung.parameters for rung in event.ladder}
    assert event.cut is not None
    assert event.cut.module in facts.cut
    assert (facts.bytes, event.cached) == (event.bytes, True)
    pooled = 32 + 16 + 24 + 40 + 80 + 112  # every stage in front of the cut, whatever the head reads
    assert facts.bytes == (26 * 3 + 6) * (event.cut.numbers + pooled) * 2
    assert facts.seconds is not None
    assert facts.seconds > 0
    assert f"{event.bytes / 2**20:,.1f} MiB of activations kept; measured on random pixels" in repr(told)
