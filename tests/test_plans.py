"""Plans as data: read, changed, written, described; the recipes against the published figures."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import regraft
from regraft.cli import COMMANDS
from regraft.errors import DataError, OutputError, RegraftError, SettingsError, UnknownNameError, UsageError
from regraft.records.described import PhaseFacts, Plans
from regraft.records.plan import BackbonePlan, DataPlan, HeadPlan, Law, Phase, Plan, PreprocessingPlan
from regraft.settings import Declared, commands, declared
from regraft.strategy.changing import override
from regraft.strategy.describing import describe
from regraft.strategy.library import GROUPS, load_plan, load_plans, recipe, recipe_names
from regraft.strategy.reading import places, read_plan
from regraft.strategy.words import problem_of_learner, problem_of_readout, problem_of_step
from regraft.strategy.writing import to_toml
from tests.doors import json_of, regraft_cli

ROOT = Path(__file__).parents[1]

# -- reading ---------------------------------------------------------------------------------------


def mistakes(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_plan(text)
    assert not [problem for problem in caught.value.problems if "\n" in problem]
    return list(caught.value.problems)


def test_every_mistake_is_named_at_once() -> None:
    found = mistakes("""
        nmae = "x"
        epochs = 3
        [haed]
        hidden = 5
        [preprocessing]
        size = 7
        fit = "zoom"
        [backbone]
        name = 3
        [head]
        reads = ["stage9", "last"]
        hidden = [10, 20]
        start = "random"
        activation = ["relu", "relu", "relu"]
        [[phases]]
        name = "a"
        learns = "head"
        epoch = 1
        rate = "fast"
        batch = true
        [[phases]]
        learns = "stages[-2"
        epochs = 0
        nesterov = true
        [published]
        accuracy = 70
    """)
    assert found == [
        "preprocessing.size: 7 is not allowed; it must be at least 32 and at most 1,024",
        "preprocessing.fit: 'zoom' is not allowed; it must be one of crop, pad, squash",
        "backbone.name: 3 is not allowed; it must be text",
        "head.reads: ['stage9', 'last'] is not allowed; it must be stage1 to stage8, last, logits or a module's name "
        "such as features.9; as NAME/flatten where it is not to be pooled",
        "head.activation: 3 values for 2 layers; give 1 or 2",
        "phases.0.epoch: no such setting; did you mean 'epochs'?",
        "phases.0.rate: 'fast' is not allowed; it must be a number more than 0 and at most 100",
        "phases.0.batch: True is not allowed; it must be a whole number at least 1 and at most 65,536",
        "phases.1.learns: 'stages[-2' is not allowed; it must be head, all, norms, biases, depthwise, a stage such as "
        "stage6 or stages[-2:], layers[100:], share(0.3), or a module's name with * for anything",
        "phases.1.epochs: 0 is not allowed; it must be more than 0 and at most 10,000",
        "phases.1.name: missing; What to call it in tables and curves.",
        'phases.1.nesterov: it needs optimiser = "sgd" and a momentum',
        "published.accuracy: 70 is not allowed; it must be text",
        "nmae: no such setting; did you mean 'name'?",
        "epochs: no such setting here; it belongs to [[phases]]",
        "haed: no such table; did you mean 'head'?",
    ]


PHASE = '[[phases]]\nname = "p"\nlearns = "head"\n'


@pytest.mark.parametrize(("text", "problem"), [
    ("name = ", "no TOML: Invalid value (at line 1, the end of the document)"),
    ('name = "x"\nsize 3', "no TOML: Expected '=' after a key in a key/value pair (at line 2, column 6)"),
    ("x = " + "[" * 100_000, "no TOML: its lists are nested too deep"),
    ("format_version = 2", "format_version: 2 is not allowed; this Regraft reads 1"),
    ("head = 3", "head: 3 is not allowed; it must be a table, [head]"),
    ("phases = 3", "phases: 3 is not allowed; it must be a list of tables, each under [[phases]]"),
    ('[phases]\nname = "x"', "it must be a list of tables, each under [[phases]]"),
    ("phases = [3]", "phases.0: 3 is not allowed; it must be a table, [[phases]]"),
    ("[data]\nnesterov = true", "data.nesterov: no such setting here; it belongs to [[phases]]"),
    ("[data]\nqqq = 1", "data.qqq: no such setting; the settings are test_share, validation_share, limit, classes"),
    ("[data]\ntest_share = 1.0", "data.test_share: 1.0 is not allowed; it must be at least 0 and less than 1"),
    ("[data]\nlimit = 1.5", "data.limit: 1.5 is not allowed; it must be a whole number at least 1"),
    ("[data]\nlimit = 1" + "0" * 400, "it must be at least 1"),
    (PHASE + "rate = inf", "phases.0.rate: inf is not allowed; it must be more than 0 and at most 100"),
    (PHASE + "rate = 1979-05-27", "phases.0.rate: datetime.date(1979, 5, 27) is not allowed; it must be a number"),
    (PHASE + 'law = "groups"\nover = ["a"]', "phases.0.group_rates: 0 rates for 1 groups of over"),
    (PHASE + PHASE, "phases: the name 'p' is given twice"),
    (PHASE + 'loss = "binary"', "head.one_logit and a phase's loss = \"binary\" need each other"),
    ('[[phases]]\nname = "p"\nlearns = []', "phases.0.learns: nothing is named; give at least one, such as head"),
    ('[[phases]]\nname = ""\nlearns = []', "phases.0.learns: nothing is named"),
    ("[head]\nhidden = [10]", "head.start: 'solved' is for a linear head"),
    ('[head]\nreads = "lsat"', "did you mean 'last'?"),
    ('[head]\nreads = "last/flat"', "it must be last/mean or flatten"),
    (PHASE + 'augment = "rotation(20)"', "it must be a name with options"),
    (PHASE + 'over = "a b"', "it must be names of modules joined by +"),
    ("name = \"\\u0007\"\n\"a\\u0007b\" = 1", r"a\x07b: no such setting"),
])
def test_a_mistake_says_what_is_allowed(text: str, problem: str) -> None:
    (found,) = mistakes(text)
    assert problem in found
    assert len(found) < 400


def test_a_wrong_value_is_not_told_twice() -> None:
    # momentum is wrong already; that nesterov needs one would say it again.
    assert len(mistakes(PHASE + 'optimiser = "sgd"\nmomentum = "much"\nnesterov = true')) == 1
    assert len(mistakes("[head]\none_logit = 3\n" + PHASE + 'loss = "binary"')) == 1
    assert len(mistakes('[head]\none_logit = true\nhidden = [5]\n' + PHASE + 'loss = "binary"')) == 1


def test_one_value_stands_for_a_list_of_one_and_whole_numbers_for_numbers() -> None:
    plan = read_plan('[head]\nhidden = 5\nactivation = "tanh"\ndropout = 0\nstart = "random"\n' + PHASE
                     + 'epochs = 2\nrate = 1')
    assert plan.head == HeadPlan((), (5,), ("tanh",), (0.0,), False, "random")
    assert plan.phases == (Phase("p", ("head",), epochs=2.0, rate=1.0),)
    assert isinstance(plan.phases[0].epochs, float)
    assert isinstance(plan.head.dropout[0], float)
    assert read_plan("") == Plan()


@pytest.mark.parametrize("word", ["head", "all", "norms", "biases", "depthwise", "stage6", "stages[-2:]", "stages[3]",
                                  "layers[100:]", "layers[:8]", "share(0.3)", "features.*", "blocks.5.bn1",
                                  "bloc?.c*"])
def test_words_for_what_learns(word: str) -> None:
    assert problem_of_learner(word) is None


@pytest.mark.parametrize("word", ["", "stages[1:2:3]", "stages[]", "share(0)", "share(2)", "share(x)", "share(nan)",
                                  "a b", "layer[3:]", "a..b", ".a", "head,all", "stages[-2:"])
def test_words_that_mean_nothing(word: str) -> None:
    assert problem_of_learner(word)


def test_words_for_readouts_and_steps() -> None:
    assert [word for word in ("stage1", "stage8/flatten", "last", "logits/mean", "features.9/flatten", "layer4")
            if problem_of_readout(word)] == []
    assert [word for word in ("stage0", "stage9", "logit", "lst", "last/", "last/max", "a b", "", "x..y")
            if not problem_of_readout(word)] == []
    assert [word for word in ("grey", "rotation(degrees=20)", "rotation(degrees=20, fill=pad)", "grey()")
            if problem_of_step(word)] == []
    assert [word for word in ("", "grey(", "rotation(20)", "a b", "rotation(degrees=20,)", "x(y=1)z")
            if not problem_of_step(word)] == []


# -- writing ---------------------------------------------------------------------------------------

TEXT = st.text(max_size=12)

WORDS = {"reads": st.sampled_from(["last", "stage3/flatten", "features.9"]), "augment": st.just("rotation(degrees=20)"),
         "over": st.sampled_from(["classifier", "features.*", "bn1 + conv1"])}
LEARNERS = st.sampled_from(["head", "all", "stages[-2:]", "layers[100:]", "share(0.3)", "blocks.*"])


def of_type(kind: Any, item: Declared) -> st.SearchStrategy[Any]:
    """Values of a declared type within its range."""
    if get_origin(kind) is tuple:
        return st.lists(of_type(get_args(kind)[0], item), min_size=item.name == "learns", max_size=3).map(tuple)
    if isinstance(kind, type) and issubclass(kind, bool):
        return st.booleans()
    if kind is str:
        return WORDS.get(item.name, LEARNERS if item.name in ("learns", "frozen", "elsewhere") else TEXT)
    bounds = item.setting
    low = bounds.ge if bounds.ge is not None else bounds.gt if bounds.gt is not None else 0
    high = bounds.le if bounds.le is not None else bounds.lt if bounds.lt is not None else 1e300
    if kind is int:
        return st.integers(int(low), int(min(high, 2**62)))
    if kind is float:
        return st.floats(low, high, exclude_min=bounds.gt is not None, exclude_max=bounds.lt is not None)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    return st.one_of([st.none() if one is type(None) else of_type(one, item) for one in get_args(kind)])


@st.composite
def records(draw: st.DrawFn, kind: type[Any], fixed: dict[str, Any] | None = None) -> Any:
    values = {}
    for item in declared(kind):
        if item.default is dataclasses.MISSING or draw(st.booleans()):
            values[item.name] = draw(of_type(item.type, item))
    return kind(**{**values, **(fixed or {})})


@st.composite
def phases(draw: st.DrawFn, name: str) -> Phase:
    phase: Phase = draw(records(Phase, {"name": name, "nesterov": False, "law": "constant", "loss": "cross_entropy"}))
    law: Law = draw(st.sampled_from(["constant", "linear", "groups"]))
    return dataclasses.replace(phase, law=law, group_rates=(0.5,) * len(phase.over))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    head = draw(records(HeadPlan, {"hidden": (), "activation": ("relu",), "dropout": (0.5,), "one_logit": False}))
    if draw(st.booleans()):
        head = HeadPlan(head.reads, (3, 4), ("linear", "relu"), (0.0, 0.1, 0.2), False, "random")
    names = draw(st.lists(TEXT, unique=True, max_size=3))
    return Plan(draw(TEXT), draw(TEXT), draw(st.dictionaries(TEXT, TEXT, max_size=3)), draw(records(DataPlan)),
                draw(records(PreprocessingPlan)), draw(records(BackbonePlan)), head,
                tuple(draw(phases(name)) for name in names))


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.booleans())
def test_what_is_written_is_read_as_the_same_plan(plan: Plan, comments: bool) -> None:
    assert read_plan(to_toml(plan, comments=comments)) == plan


def test_a_written_plan_explains_what_differs() -> None:
    text = to_toml(recipe("digits-vgg16-freeze8"))
    assert "\n# Images a step. [a whole number at least 1 and at most 65,536]\nbatch = 16\n" in text
    assert "\n# How gradients become steps. [one of sgd, adam, adamw, rmsprop]\noptimiser = \"sgd\"\n" in text
    assert "mixup" not in text
    assert "#" not in to_toml(recipe("digits-vgg16-freeze8"), comments=False)
    assert max(map(len, text.splitlines())) <= 120


def test_what_no_file_can_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="is a byte that is no text"):
        to_toml(Plan(backbone=BackbonePlan(weights="a\udcff.pth")))


# -- changing --------------------------------------------------------------------------------------


def test_settings_are_changed_by_path() -> None:
    plan = override(recipe("flowers102-vgg16"), [
        "phases.0.epochs=2", "phases.*.batch=8", "backbone.name=efficientnet_lite0", "phases.1.over=[\"a\", \"b + c\"]",
        "phases.1.learns=stages[-2:]", "head.dropout=0.5", "phases.0.augment=rotation(degrees=20)", "name=3",
        "phases.1.other_rate=none", "preprocessing.size=none", "backbone.weights=\"x=y.pth\"", "data.limit = 7"])
    first, second = plan.phases
    assert (first.epochs, first.batch, second.batch, first.augment) == (2, 8, 8, ("rotation(degrees=20)",))
    assert (second.over, second.learns, second.other_rate) == (("a", "b + c"), ("stages[-2:]",), None)
    assert (plan.name, plan.backbone.name, plan.backbone.weights) == ("3", "efficientnet_lite0", "x=y.pth")
    assert (plan.preprocessing.size, plan.head.dropout, plan.data.limit) == (None, (0.5,), 7)
    assert override(Plan(), ["data.limit=3"]).data.limit == 3
    assert override(plan, []) == plan


@pytest.mark.parametrize(("change", "problem"), [
    ("phases.0.epoch=1", "phases.0.epoch: no such setting; did you mean 'phases.0.epochs'?"),
    ("epochs=1", "epochs: no such setting; did you mean 'phases.*.epochs' or 'phases.0.epochs'?"),
    ("phase.0.epochs=1", "phase.0.epochs: no such setting; did you mean 'phases.0.epochs'"),
    ("backbon.name=x", "backbon.name: no such setting; did you mean 'backbone.name'"),
    ("zzzz=1", "zzzz: no such setting; `regraft settings` lists them"),
    ("phases=1", "phases: no such setting; "),
    ("published.phase1=1", "published.phase1: no such setting"),
    ("phases.2.epochs=1", "phases.2.epochs: no phase 2; the plan 'flowers102-vgg16' has 0 (head), 1 (everything), and "
                          "* is all of them"),
    ("phases.0.epochs", "'phases.0.epochs' changes nothing; write it as PATH=VALUE, such as phases.*.epochs=1"),
    ("phases.0.epochs=many", "phases.0.epochs: 'many' is not allowed; it must be a number more than 0"),
    ("phases.0.epochs=0", "phases.0.epochs: 0 is not allowed"),
    ("phases.0.learns=[head", "phases.0.learns: '[head' is no TOML value; write it as"),
    ("head.hidden=[[1]]", "head.hidden: [[1]] is not allowed; it must be a list, each of it a whole number"),
    ("phases.0.rate=none", "phases.0.rate: 'none' is not allowed"),
    ("phases.0.rate=1\nbatch=3", "phases.0.rate: '1\\nbatch=3' is not allowed"),
])
def test_mistakes_of_a_change(change: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        override(recipe("flowers102-vgg16"), [change])
    (found,) = caught.value.problems
    assert problem in found


def test_mistakes_of_several_changes_are_named_together() -> None:
    with pytest.raises(SettingsError) as caught:
        override(recipe("flowers102-vgg16"), ["phases.*.epochs=0", "fit=crop", "preprocessing.fit=zoom"])
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "fit", "preprocessing.fit", "phases.0.epochs", "phases.1.epochs"]
    with pytest.raises(SettingsError, match="the plan 'vgg19-codes' has no phases; its head is solved"):
        override(recipe("vgg19-codes"), ["phases.*.epochs=1"])


# -- recipes ---------------------------------------------------------------------------------------

#: Ours against published: what each recipe must say, by the path of the setting.
PUBLISHED: dict[str, dict[str, object]] = {
    "digits-vgg16-features": {
        "backbone.name": "torchvision:vgg16", "preprocessing.size": 224, "data.validation_share": 0.3,
        "data.test_share": 0.3, "head.hidden": (1000, 500, 150), "head.activation": ("linear", "sigmoid", "sigmoid"),
        "head.dropout": (0.0, 0.3, 0.4, 0.2), "phases.0.optimiser": "adam", "phases.0.epochs": 20,
        "phases.0.batch": 128, "phases.0.learns": ("head",), "phases.0.loss": "cross_entropy"},
    "digits-vgg16-freeze8": {
        "backbone.name": "torchvision:vgg16", "head.reads": ("last",), "phases.0.learns": ("all",),
        "phases.0.frozen": ("layers[:8]",), "phases.0.optimiser": "sgd", "phases.0.rate": 1e-3, "phases.0.decay": 1e-6,
        "phases.0.momentum": 0.9, "phases.0.nesterov": True, "phases.0.batch": 16, "phases.0.epochs": 10,
        "phases.0.schedule": "constant", "data.validation_share": 0.2, "data.test_share": 0.0},
    "baseline-mlp": {"backbone.name": "plain:mlp", "backbone.start": "random", "preprocessing.size": 224,
                     "phases.0.learns": ("all",)},
    "baseline-cnn": {"backbone.name": "plain:cnn", "backbone.start": "random", "phases.0.learns": ("all",)},
    "baseline-vgg16": {"backbone.name": "torchvision:vgg16", "backbone.start": "pretrained",
                       "phases.0.learns": ("head", "classifier")},
    "vgg19-codes": {"backbone.name": "torchvision:vgg19", "head.reads": ("last",), "head.hidden": (), "phases": ()},
    "vgg19-full": {"backbone.name": "torchvision:vgg19", "phases.0.learns": ("all",), "phases.0.frozen": ()},
    "vgg19-freeze5": {"backbone.name": "torchvision:vgg19", "phases.0.learns": ("all",),
                      "phases.0.frozen": ("layers[:5]",)},
    "vgg19-block2pool": {"backbone.name": "torchvision:vgg19", "preprocessing.size": 224,
                         "head.reads": ("features.9/flatten",), "phases.0.learns": ("head",)},
    "own-network-random": {"backbone.start": "random", "head.start": "random", "phases.0.learns": ("all",)},
    "own-network-pretrained": {"backbone.start": "pretrained", "phases.0.learns": ("all",)},
    **{f"flowers102-{name}": {
        "backbone.name": f"torchvision:{network}", "head.start": "random", "phases.0.learns": ("head",),
        "phases.0.epochs": 16, "phases.0.optimiser": "adam", "phases.0.rate": 1e-3, "phases.0.schedule": "constant",
        "phases.1.learns": ("all",), "phases.1.epochs": 8, "phases.1.rate": 1e-4, "phases.1.other_rate": 1e-8,
        "phases.1.schedule": "constant", **ladder,
    } for name, network, ladder in (
        ("vgg16", "vgg16_bn", {"phases.1.law": "linear", "phases.1.last_rate": 1e-7,
                               "phases.1.over": ("classifier", "features.*")}),
        *((name, name, {"phases.1.law": "geometric", "phases.1.factor": 3,
                        "phases.1.over": ("fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1")})
          for name in ("resnet50", "resnet152")))},
    "cats-dogs-mobilenetv2": {
        "backbone.name": "mobilenetv2_100_same", "preprocessing.size": 160, "preprocessing.normalise": "half",
        "head.reads": ("last",), "head.dropout": (0.2,), "head.one_logit": True, "head.start": "random",
        "phases.0.learns": ("head",), "phases.0.optimiser": "adam", "phases.0.rate": 1e-4, "phases.0.epochs": 10,
        "phases.0.batch": 32, "phases.0.schedule": "constant", "phases.0.loss": "binary",
        "phases.0.augment": ("horizontal_flip", "rotation(degrees=72)"), "phases.1.learns": ("layers[100:]", "head"),
        "phases.1.optimiser": "rmsprop", "phases.1.rate": 1e-5, "phases.1.epochs": 10, "phases.1.batch": 32,
        "phases.1.batch_norm": "inference", "phases.1.schedule": "constant", "phases.1.loss": "binary",
        "phases.1.augment": ("horizontal_flip", "rotation(degrees=72)")},
}


def at(plan: Plan, path: str) -> object:
    value: Any = plan
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return value


def test_every_recipe_has_its_row_and_every_group_its_recipes() -> None:
    assert set(PUBLISHED) == set(recipe_names())
    assert {name for names in GROUPS.values() for name in names} <= set(recipe_names())
    assert not set(GROUPS) & set(recipe_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_what_is_published(name: str) -> None:
    plan = load_plan(name)
    assert plan.name == name
    assert plan.about.endswith(".")
    assert plan.published
    assert {path: at(plan, path) for path in PUBLISHED[name]} == PUBLISHED[name]
    assert read_plan(to_toml(plan)) == plan
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_can_be_tried_at_classroom_size(name: str) -> None:
    """The line of its header names only what exists, and what learns has a meaning in the other network."""
    header = (ROOT / "src/regraft/recipes" / f"{name}.toml").read_text("utf-8").partition("\n\n")[0]
    assert header.startswith("# Walk-through ")
    assert "What differs here:" in header
    line = " ".join(re.sub(r"^# ", "", header[header.index("# Classroom size:"):], flags=re.M).split())
    line = line.partition(": ")[2].partition(" All ")[0]
    assert line.startswith(f"regraft train DATA --plan {name} ")
    changes = re.findall(r"--set '?([^' ]+)'?", line)
    other = re.search(r"--backbone (\w+)", line)
    plan = override(recipe(name), [*changes, *([f"backbone.name={other[1]}"] if other else [])])
    carries_over = {"head", "all", "norms", "biases", "depthwise"}
    for phase in plan.phases if other else ():
        assert {*phase.learns, *phase.frozen} <= carries_over or phase.elsewhere
    if other:
        assert all(re.fullmatch(r"(stage\d|last)(/flatten)?", word) for word in plan.head.reads)


def test_numbers_that_the_recipes_quote() -> None:
    torch, models = pytest.importorskip("torch"), pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        vgg16, vgg19 = models.vgg16(weights=None), models.vgg19(weights=None)
    sizes = [[sum(p.numel() for p in layer.parameters()) for layer in network.features] for network in (vgg16, vgg19)]
    whole = sum(p.numel() for p in vgg16.parameters()) - 4097 * 1000 + 4097 * 10
    # Keras counts the input layer, and activations belong to their convolutions.
    frozen8, frozen5 = sum(sizes[0][:11]), sum(sizes[1][:6])
    assert (frozen8, whole, whole - frozen8, frozen5) == (555_328, 134_301_514, 133_746_186, 112_576)
    assert recipe("digits-vgg16-freeze8").phases[0].elsewhere == (f"share({(whole - frozen8) / whole:.3f})",)
    assert recipe("vgg19-freeze5").phases[0].elsewhere == ("share(0.999)",)
    assert recipe("cats-dogs-mobilenetv2").phases[1].elsewhere == (f"share({1_862_721 / 2_259_265:.2f})", "head")
    assert "555,328 of 134,301,514" in recipe("digits-vgg16-freeze8").published["frozen"]
    assert "112,576" in recipe("vgg19-freeze5").published["frozen"]


#: What the network must make of each recipe, in each phase: parameters that learn, and that stay frozen. Those with a
#: mark are published; the others follow from the architecture. Without images, the head is counted as published.
COUNTS: dict[str, list[tuple[int, int]]] = {
    "digits-vgg16-features": [(25_089 * 1_000 + 1_001 * 500 + 501 * 150 + 151 * 10, 14_714_688)],  # 25,088 is published
    "digits-vgg16-freeze8": [(133_746_186, 555_328)],  # published, of 134,301,514
    "baseline-vgg16": [(119_545_856 + 65_552, 14_714_688)],
    "baseline-mlp": [(150_528 * 500 + 500 + 2 * 250_500 + 8_016, 0)],
    "baseline-cnn": [(2_432 + 2 * 25_632 + 288 * 64 + 64 + 1_040, 0)],
    "vgg19-freeze5": [(139_570_240 - 112_576 + 8_194, 112_576)],  # the frozen part is published
    "vgg19-full": [(139_570_240 + 8_194, 0)],
    "vgg19-block2pool": [(401_408 * 256 + 256 + 514, 260_160)],  # 56 x 56 x 128 is published
    "vgg19-codes": [],
    "own-network-random": [(3_371_008 + 2_562, 0)],
    "own-network-pretrained": [(3_371_008 + 2_562, 0)],
    "flowers102-vgg16": [(417_894, 134_268_992), (134_686_886, 0)],  # 135 million are published
    "flowers102-resnet50": [(208_998, 23_508_032), (23_717_030, 0)],  # 23 million
    "flowers102-resnet152": [(208_998, 58_143_808), (58_352_806, 0)],  # 58 million
    # 1,281 and 1,862,721 are published. Keras counts the running statistics of batch norm among 2,259,265.
    "cats-dogs-mobilenetv2": [(1_281, 2_257_984 - 34_112), (1_862_721, 2_259_265 - 34_112 - 1_862_721)],
}

#: Those that are traced in some seconds.
LIGHT = {"cats-dogs-mobilenetv2", "flowers102-resnet50", "baseline-cnn", "vgg19-codes", "own-network-random"}

#: The published rates of phase 2 over depth: divided by 3 at each group.
RESNET_LADDER = {name: 1e-4 / 3**i for i, name in enumerate(
    ("fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"))}


def test_every_recipe_is_counted() -> None:
    assert set(COUNTS) == set(recipe_names())


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in LIGHT else pytest.mark.slow) for name in COUNTS])
def test_what_learns_is_what_is_published(name: str) -> None:
    (told,) = regraft.plan(plan=name).plans
    assert [(facts.trainable, facts.parameters - facts.trainable) for facts in told.network] == COUNTS[name]
    assert told.plan == recipe(name)
    for facts in told.network:
        assert not facts.instead
        assert f"{facts.trainable:,} of {facts.parameters:,} parameters learn, " in repr(told)
        assert sum(facts.sizes.values()) == facts.trainable
        assert facts.cut in repr(told)
    if name.startswith("flowers102-resnet"):
        assert told.network[1].rates == pytest.approx(RESNET_LADDER)
        assert told.network[1].sizes["fc"] == 208_998
    if name == "flowers102-vgg16":
        rates = list(told.network[1].rates.values())
        assert rates == sorted(rates, reverse=True)
        assert (rates[0], rates[-1]) == pytest.approx((1e-4, 1e-7))
        assert list(told.network[1].rates)[0::26] == ["classifier", "features.0"]


@pytest.mark.parametrize(("name", "frozen", "cut"), [
    ("digits-vgg16-freeze8", 555_328, "features.11, 256 x 16 x 16"),
    pytest.param("vgg19-freeze5", 112_576, "features.6, 128 x 32 x 32", marks=pytest.mark.slow)])
def test_frozen_layers_of_small_pictures(name: str, frozen: int, cut: str) -> None:
    """The size of the pictures changes no count of a network that averages before its dense layers."""
    (told,) = regraft.plan(plan=name, set="preprocessing.size=64").plans
    (facts,) = told.network
    assert (facts.parameters - facts.trainable, facts.cut) == (frozen, cut)


def test_a_plan_is_loaded_by_name_or_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[data]\nlimit = 3\n', "utf-8")
    assert load_plan(file) == load_plan(str(file)) == Plan("own", data=DataPlan(limit=3))
    assert [plan.name for plan in load_plans("own-network")] == ["own-network-random", "own-network-pretrained"]
    with pytest.raises(UsageError, match="flowers102 stands for 3 recipes; give one of flowers102-vgg16, "):
        load_plan("flowers102")
    with pytest.raises(UnknownNameError, match="no recipe is called 'vgg19-code'; did you mean 'vgg19-codes'"):
        load_plan("vgg19-code")


@pytest.mark.parametrize(("data", "error", "message"), [
    (None, UsageError, "does not exist; give a plan's TOML file or the name of a recipe"),
    (b"[data]\nlimit = 0\nlimits = 1\n", SettingsError, "bad.toml: data.limit: 0 is not allowed; it must be "),
    (b"name = 'a'\nabout = '\xff'\n", SettingsError, "bad.toml: no TOML: byte 0xff in line 2 is no UTF-8 text"),
    (b"#" * 1_000_001, SettingsError, "bad.toml: no plan: more than 1,000,000 bytes; a plan is a short text"),
])
def test_a_file_that_is_no_plan(data: bytes | None, error: type[RegraftError], message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(error, match=re.escape(message)):
        load_plan(file)
    with pytest.raises(UsageError, match="can't be read"):
        load_plan(tmp_path)


# -- commands --------------------------------------------------------------------------------------


def test_recipes_are_listed() -> None:
    found = regraft.recipes()
    assert [row.name for row in found.recipes] == list(recipe_names())
    assert "98.5 % validation accuracy" in repr(found)
    assert "baselines-16-class stands for baseline-mlp, baseline-cnn, baseline-vgg16" in repr(found)
    group = json_of("recipes", "own-network")
    assert [row["name"] for row in group["recipes"]] == ["own-network-random", "own-network-pretrained"]
    assert list(group["groups"]) == ["own-network"]


def test_settings_are_explained() -> None:
    every = regraft.explain().settings
    names = {(row.name, place) for row in every for place in row.where}
    for command, kind in commands().items():
        for item in declared(kind):
            named = (item.name, f"regraft.{command}()") if item.setting.python_only else (
                item.setting.metavar if item.setting.positional else item.option, f"regraft {command}")
            assert named in names
    assert {(item.name, place) for place, kind in places() for item in declared(kind)} <= names
    (epochs,) = regraft.explain("phases.0.epochs").settings
    assert (epochs.default, epochs.allowed) == ("5.0", "a number more than 0 and at most 10,000")
    assert {row.name for row in regraft.explain("--test-share").settings} == {"--test-share", "test_share"}
    assert {place for row in regraft.explain("store").settings for place in row.where} >= {"regraft store"}
    assert {row.name for row in regraft.explain("head").settings} == {item.name for item in declared(HeadPlan)}
    assert {row.name for row in regraft.explain("mome").settings} == {"momentum"}
    with pytest.raises(UnknownNameError, match="table of a plan is called 'epoochs'; did you mean 'epochs'"):
        regraft.explain("epoochs")
    assert "Passes over the training images." in regraft_cli("settings", "epochs").stdout


def test_each_command_has_its_settings() -> None:
    assert commands() == {
        name: function.settings for name, function in COMMANDS.items()}  # type: ignore[attr-defined]


def test_a_plan_is_shown_and_written(crops: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.toml"
    done = regraft_cli("plan", crops, "--plan", "cats-dogs-mobilenetv2", "--backbone", "efficientnet_lite0", "--set",
                       "phases.*.epochs=1", "--set", "data.limit=20", "--set", "preprocessing.size=64", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "crops: 40 undivided images of 2 classes" in done.stdout
    assert "layers from 100  layers[100:], head       1     32  rmsprop     1e-05" in done.stdout
    assert "share(0.82), head learns instead: what the plan names belongs to another network" in done.stdout
    assert "1,281 of 3,372,289 parameters learn, 3,371,008 stay frozen; cut at the head's input" in done.stdout
    assert done.stdout.count("forecast") == 3
    plan = load_plan(out)
    assert plan.backbone.words_of == "mobilenetv2_100_same"
    assert [phase.epochs for phase in plan.phases] == [1, 1]
    assert (plan.backbone.name, plan.data.limit) == ("efficientnet_lite0", 20)
    with pytest.raises(OutputError, match="is there already; take another name, or replace it with --force"):
        regraft.plan(out=out)
    regraft.plan(plan="vgg19-codes", out=out, force=True)
    assert regraft.plan(plan=out).plans[0].plan == load_plan(out) == recipe("vgg19-codes")
    assert not list(tmp_path.glob(".*"))


def test_plan_in_python(digits_and_crops: tuple[Path, Path]) -> None:
    digits, crops = digits_and_crops
    several = regraft.plan(plan="own-network", set=["phases.*.epochs=1", "preprocessing.size=64"])
    assert isinstance(several, Plans)
    assert [one.plan.phases[0].epochs for one in several.plans] == [1, 1]
    assert regraft.plan(crops, set="data.limit=3").plans[0].plan == Plan(data=DataPlan(limit=3))
    assert "the head is solved on its features" in repr(regraft.plan())
    with pytest.raises(UsageError, match="has one output for two classes"):
        regraft.plan(digits, plan="cats-dogs-mobilenetv2")
    with pytest.raises(UsageError, match="stands for 3 recipes, and --out is one file"):
        regraft.plan(plan="flowers102", out="x.toml")
    with pytest.raises(DataError, match="does not exist"):
        regraft.plan("nowhere")
    with pytest.raises(SettingsError, match="set: 3 is not allowed; it must be a list, each of it text"):
        regraft.plan(set=3)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="planned: no such setting; did you mean 'plan'"):
        regraft.plan(planned="x")  # type: ignore[call-arg]


@pytest.fixture
def digits_and_crops(crops: Path, tmp_path: Path) -> tuple[Path, Path]:
    from tests.conftest import write_digits

    return write_digits(tmp_path / "digits", "012", 2), crops


def test_what_the_network_says_comes_into_the_table() -> None:
    plan = recipe("digits-vgg16-freeze8")
    facts = PhaseFacts(133_746_186, 134_301_514, "features.11", {"head": 1e-3, "x": 1e-4}, {"head": 40_970, "x": 3})
    text = repr(describe(plan, [facts]))
    assert ("133,746,186 of 134,301,514 parameters learn, 555,328 stay frozen; cut at features.11\n"
            "        rate  parameters  of\n"
            "       0.001      40,970  head\n"
            "      0.0001           3  x") in text
    with pytest.raises(ValueError, match="facts of 2 phases for a plan of 1"):
        describe(plan, [PhaseFacts(1, 2, "x")] * 2)


@pytest.mark.parametrize(("arguments", "message"), [
    (["plan", "--plan", "vgg19-code"], "error: no recipe is called 'vgg19-code'; did you mean 'vgg19-codes'"),
    (["plan", "--set", "data.limits=3"], "error: data.limits: no such setting; did you mean 'data.limit'?"),
    (["recipes", "flowers"], "did you mean 'flowers102'"),
    (["settings", "epoch5"], "did you mean 'epochs'"),
])
def test_mistakes_on_the_command_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = regraft_cli(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# -- documentation ---------------------------------------------------------------------------------


def row(item: Declared) -> str:
    return f"| `{item.name}` | {item.default_text} | {item.allowed} | {item.setting.help} |"


@pytest.mark.parametrize(("place", "kind"), [*places()])
def test_every_setting_of_a_plan_is_documented(place: str, kind: type[Any]) -> None:
    page = (ROOT / "docs/plans.md").read_text("utf-8")
    section = re.split(r"^#+ ", page.replace("`", ""), flags=re.M)
    (body,) = [part for part in section if part.partition("\n")[0] == place.capitalize()]
    written = [line for line in body.splitlines() if re.match(r"\| \w+ \| ", line) and not line.startswith("| setting")]
    assert written == [row(item).replace("`", "") for item in declared(kind)]


def test_plans_in_the_pages_are_plans() -> None:
    texts = [text for page in (ROOT / "docs").glob("*.md")
             for text in re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S)]
    assert texts
    for text in texts:
        read_plan(text)


def test_every_recipe_stands_in_the_pages() -> None:
    page = (ROOT / "docs/plans.md").read_text("utf-8")
    assert [name for name in (*recipe_names(), *GROUPS) if f"`{name}`" not in page] == []
