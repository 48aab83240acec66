"""Configurations: read, refused in sentences, and what they come to."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import quickstart, smoke
from experiments.config import Experiment, default_config
from experiments.config_checks import check_tokens_heard
from experiments.measures import _rate, score
from experiments.methods import ARGUMENTS, MethodConfig, budgets, make_method
from experiments.reading import flatten, from_config_dict
from experiments.schedule import derive, table
from experiments.setup import build
from experiments.tasks import load_task
from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.decoding.automaton import advance, compile_automaton
from gpg_jax.estimators.generalized_advantage import length_adaptive_lambda


def read(**changes) -> Experiment:
    """The default configuration with dotted keys changed, `__` for the dot."""
    config = default_config().to_dict()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return from_config_dict(Experiment, config)


def test_the_defaults_come_back():
    assert read() == Experiment()


def test_values_are_typed():
    config = read(optimizer__learning_rate=1, mesh=(2, 2, 2), sampling__stop="\n", model__name="x")
    assert isinstance(config.optimizer.learning_rate, float) and config.mesh == (2, 2, 2)
    assert config.sampling.stop == ("\n",) and config.model.name == "x"


def test_method_arguments_are_those_given():
    config = read(method__name="dapo", method__clip_high=0.3, method__none="overlong_cache")
    assert config.method.arguments == {"clip_high": 0.3, "overlong_cache": None}
    assert make_method(config.method, 16).resample


def test_every_method_has_all_its_plain_arguments():
    assert {"clip", "clip_low", "discount", "unit_count", "kl_coefficient", "convention"} <= set(ARGUMENTS)
    assert not {"rows", "norms", "units", "options"} & set(ARGUMENTS)


def test_json_keeps_a_configuration():
    config = read(
        method__name="gspo", method__clip_low=0.1, method__none="dual_clip", task__rewards={"exact": 2.0}
    )
    again = from_config_dict(Experiment, json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert flatten(json.loads(json.dumps(dataclasses.asdict(config)))) == flatten(config)


SENTENCES = {
    "unknown section": (dict(optimiser=3), r"no config key 'optimiser'; the nearest is 'optimizer'"),
    "unknown key": (dict(schedule__step=3), r"no config key 'schedule.step'; the nearest is 'steps'"),
    "unknown argument": (dict(method__clpi=0.1), r"no config key 'method.clpi'; the nearest is 'clip'"),
    "argument of another method": (
        dict(method__clip_low=0.1),
        r"the method 'grpo' has no argument 'clip_low'; the nearest is 'clip'",
    ),
    "argument that cannot be None": (dict(method__none="clip"), r"argument 'clip' .* cannot be None"),
    "none of an unknown argument": (dict(method__none="clop"), r"method.none names 'clop'; .* is 'clip'"),
    "unknown method": (dict(method__name="grop"), r"method.name is 'grop'; the nearest is 'grpo'"),
    "wrong type": (dict(schedule__prompts="many"), r"prompts is 'many', of type str; it must be int"),
    "a truth value for a number": (dict(schedule__prompts=True), r"schedule.prompts is True, of type bool"),
    "below its least": (dict(schedule__group=0), r"schedule.group is 0; it must be at least 1"),
    "group of one": (dict(schedule__group=1), r"group is 1, and the baseline of 'grpo' .* take 2 or more"),
    "greedy": (dict(sampling__temperature=0.0), r"temperature is 0.0: a greedy rollout cannot be trained on"),
    "decay": (dict(optimizer__decay="step"), r"decay is 'step'; it must be 'constant' or 'linear' or"),
    "learning rate": (dict(optimizer__learning_rate=0.0), r"learning_rate is 0.0; it must be above 0"),
    "clip": (dict(optimizer__clip_norm=0.0), r"clip_norm is 0.0; it must be above 0, or None"),
    "dtype": (dict(model__dtype="float16"), r"model.dtype is 'float16'; it must be 'float32' or 'bfloat16'"),
    "verifier": (dict(task__verifier="exat"), r"no verifier or reward 'exat'; the nearest is 'exact'"),
    "reward": (dict(task__rewards={"exat": 1.0}), r"no verifier or reward 'exat'"),
    "empty stop string": (dict(sampling__stop=("\n", "")), r"sampling.stop has an empty string"),
    "mass": (dict(sampling__top_p=0.0), r"sampling.top_p must be in \(0, 1\]"),
    "least probability": (dict(sampling__min_p=2.0), r"sampling.min_p must be in \[0, 1\]"),
    "not a number": (dict(sampling__temperature=float("nan")), r"temperature .*must be finite"),
    "infinite rate": (dict(optimizer__learning_rate=float("inf")), r"rate is inf; it must be finite"),
    "an argument": (dict(method__clip=float("nan")), r"method.arguments.clip is nan; it must be finite"),
    "moments": (dict(optimizer__b1=2.0), r"optimizer.b1 is 2.0; it must be from 0 to below 1"),
    "a weight in words": (dict(task__rewards={"exact": "high"}), r"exact is .high.; a weight is a number"),
    "an infinite weight": (dict(task__rewards={"exact": float("inf")}), r"task.rewards.exact is inf"),
    "date": (dict(task__date="yesterday"), r"task.date is 'yesterday'; write it as 2025-01-01"),
    "the critic's rate": (
        dict(critic__optimizer={"learning_rate": -1.0}),
        r"^critic.optimizer.learning_rate is -1.0; it must be above 0",
    ),
    "its moments": (dict(critic__optimizer={"b2": 1.0}), r"^critic.optimizer.b2 is 1.0; it must be from 0"),
    "a revision of nothing": (
        dict(critic__trunk="separate", critic__revision="x"),
        r"critic.revision would not be read: it is of critic.name",
    ),
    "staleness without actors": (
        dict(actors__staleness=9, actors__bring="gradients"),
        r"actors.bring, actors.staleness would not be read: actors.count is 0",
    ),
    "a reward model that scores nothing": (
        dict(reward_model__batch=8, reward_model__normalise=False),
        r"reward_model.normalise, reward_model.batch would not be read: task.rewards has no 'reward_model'",
    ),
    "a snippet that outlasts its call": (
        dict(tools__names=("python",), tools__python_seconds=5.0, tools__seconds=5.0),
        r"tools.python_seconds is 5.0 and tools.seconds 5.0: a snippet must be stopped before",
    ),
    "a stop string in a call": (
        dict(tools__names=("calculator", "search"), sampling__stop=("\n", "sea")),
        r"sampling.stop has 'sea', which may stop a row inside of </search>",
    ),
    "nothing to ask": (dict(evaluation__samples=0, evaluation__greedy=False), r"there is nothing to ask"),
}  # fmt: skip


@pytest.mark.parametrize("changes, sentence", SENTENCES.values(), ids=SENTENCES)
def test_bad_values_are_sentences(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(**changes)


@pytest.mark.parametrize(
    ("boundary", "text", "heard"),
    [
        ("</", "</search>", False),
        ("e", "</search>", False),
        ("</search", "</search>", False),
        (">x</se", "<search>x</search>", False),
        (" <", "x </search>", False),
        ("x</search>", "x</search>", False),
        ("</search>", "</search>", True),
        ("search>", "</search>", True),
        ("</search>\n", "</search>\n", True),
        ("</think>", "</think></search>", True),
        ("\n", "\n</search>", True),
        ("</s>", "</s></search>", True),
    ],
)
def test_no_boundary_keeps_a_call_from_being_heard(boundary, text, heard):
    """Beside what a row does that is read from the start again behind every boundary."""
    stops = compile_automaton(("</search>", boundary), [bytes([byte]) for byte in range(256)])
    state, found = np.int32(0), []
    for byte in text.encode():
        state, pattern = advance(stops, state, np.int32(byte))
        if pattern >= 0:
            state, found = np.int32(0), [*found, int(pattern)]
    assert (0 in found) == heard
    if heard:
        assert (
            read(tools__names=("search",), tools__boundaries=("\n", boundary)).tools.boundaries[1] == boundary
        )
    else:
        with pytest.raises(
            ValueError, match=r"tools.boundaries has .*, which may stop a row inside of </search>"
        ):
            read(tools__names=("search",), tools__boundaries=("\n", boundary))
    assert read(tools__boundaries=(boundary,))  # where nothing is called


@pytest.mark.parametrize(
    ("boundary", "tokens", "heard"),
    [
        ("</think>", (b"</think", b"></", b"search>"), False),
        ("\n", (b"\n</search>",), False),
        ("so\n", (b"s", b"o\n<", b"/search>"), False),
        ("</think>", (b"</think", b">", b"</", b"search>"), True),
        ("so\n", (b"s", b"o", b"\n", b"<", b"/search>"), True),
        ("\n", (b"\n<b", b"</search>"), True),
    ],
)
def test_no_token_goes_on_from_a_boundary_into_a_call_that_is_not_heard(boundary, tokens, heard):
    """Beside what a row does that writes these tokens; it is read from the start again behind a token."""
    stops = compile_automaton(("</search>", boundary), tokens)
    state, found = np.int32(0), []
    for token in range(len(tokens)):
        state, pattern = advance(stops, state, np.int32(token))
        if pattern >= 0:
            state, found = np.int32(0), [*found, int(pattern)]
    assert (0 in found) == heard
    if heard:
        check_tokens_heard((boundary,), ("search",), tokens)
    else:
        with pytest.raises(ValueError, match="from into </search>, so that its call would not be heard"):
            check_tokens_heard((boundary,), ("search",), tokens)
    check_tokens_heard((boundary,), (), tokens)


def test_a_group_of_one_is_for_methods_without_a_group_baseline():
    assert read(schedule__group=1, method__name="reinforce_running").schedule.group == 1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_method_is_made_by_name(name):
    assert make_method(read(method__name=name).method, 16).objective


@pytest.mark.parametrize("job", [quickstart, smoke])
def test_every_method_of_the_jobs_is_an_experiment(job):
    """Of its own name, but for A3C, which is A2C by actors; VAPO's λ is none of its bounds."""
    runs = {name: from_config_dict(Experiment, job.get_config(name)) for name in job.METHODS}
    assert set(runs) == {*ALGORITHMS, "a3c"}
    for name, run in runs.items():
        assert run.method.name == ("a2c" if name == "a3c" else name)
        assert (run.actors.count > 0) == (name == "a3c")
        make_method(run.method, run.sampling.new_tokens)
    vapo = runs["vapo"]
    mask = np.tril(np.ones((vapo.sampling.new_tokens,) * 2, bool))[1:]  # two tokens or more
    assert not length_adaptive_lambda(mask, vapo.method.arguments["alpha"])[1].any()
    assert vapo.critic.pretraining_steps and vapo.critic.explained_variance is not None


def test_a_method_refuses_in_a_sentence():
    with pytest.raises(ValueError, match="'grpo' refuses its arguments: kl_coefficient must not be negative"):
        make_method(read(method__kl_coefficient=-1.0).method, 16)


@pytest.mark.parametrize(
    "method, arguments, expected",
    [
        ("dapo", {}, {"max_response": 512, "overlong_cache": 102}),
        ("dapo", {"max_response": 300}, {}),
        ("dr_grpo", {}, {"max_length": 512}),
        ("dr_grpo", {"max_length": 300}, {}),
        ("dr_grpo", {"aggregation": "token_mean"}, {}),
        ("dr_grpo", {"convention": "openrlhf"}, {}),
        ("grpo", {}, {}),
        ("grpo", {"aggregation": "constant_length"}, {"max_length": 512}),
    ],
)
def test_lengths_come_from_the_budget_unless_given(method, arguments, expected):
    assert budgets(MethodConfig(name=method, arguments=arguments), 512) == expected


def test_more_tokens_than_there_are_cannot_be_kept():
    with pytest.raises(
        ValueError, match=r"sampling.top_k is 1000, and the model has \d+ tokens; 0 keeps all"
    ):
        build(read(sampling__top_k=1000))


def test_the_derived_schedule():
    """16 prompts × 4 in 2 epochs of 2 minibatches: 64 rows, 32 an update, 16 a micro-batch, 2 a device."""
    changes = dict(prompts=16, group=4, epochs=2, minibatches=2, micro_batches=2, steps=5)
    config = read(**{f"schedule__{key}": value for key, value in changes.items()}, sampling__new_tokens=7)
    schedule = derive(config)
    plan = schedule.plan
    assert (plan.rows, plan.minibatch_rows, plan.micro_rows, plan.shards) == (64, 32, 16, 8)
    assert (plan.updates, schedule.updates, schedule.new_tokens) == (4, 20, 448)
    assert plan.layout.length == config.task.prompt_tokens + 7
    assert dict(schedule.mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(schedule__prompts=12), r"schedule.prompts is 12, .* on 8 replicas .* choose a multiple of 8"),
        (dict(evaluation__batch=12), r"evaluation.batch is 12, .* choose a multiple of 8"),
        (dict(mesh=(3, 1, 1)), r"mesh \(3, 1, 1\) needs 3 devices and there are 8"),
        (dict(schedule__minibatches=3), r"cannot be cut into 3 minibatches"),
        (dict(schedule__micro_batches=3), r"cannot be cut into 3 micro-batches on 8 devices"),
    ],
)
def test_sizes_that_do_not_divide(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        derive(read(**changes))


def test_one_device_takes_what_eight_do_not():
    assert derive(read(schedule__prompts=3), jax.devices()[:1]).plan.shards == 1


def test_prompts_beyond_the_budget(tmp_path):
    with pytest.raises(
        ValueError, match=r"25 of 25 prompts are longer than task.prompt_tokens=2, the longest 3"
    ):
        load_task(read(task__prompt_tokens=2))
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": "a"}) + "\n" for text in ("ab", "abc")))
    chosen = dict(task__name="files", task__train=str(path), task__prompt_tokens=2)
    with pytest.raises(ValueError, match="1 of 2 prompts are longer"):
        load_task(read(**chosen))
    task = load_task(read(**chosen, task__drop_long=True, task__held_out=str(path)))
    assert [example.prompt for example in task.held_out] == ["ab"]
    assert {example.prompt for example in next(task.batches)} == {"ab"}


def test_rows_without_an_answer_that_can_be_read(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"question": "ab", "answer": "so it is #### 5"}, {"question": "cd", "answer": "it is 5"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = dict(task__name="files", task__train=str(path), task__verifier="gsm8k_strict")
    with pytest.raises(ValueError, match="does not accept the gold answer 'it is 5' of example 1"):
        load_task(read(**chosen))
    path.write_text(json.dumps({"question": "ab"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 has no 'answer'.*task.drop_unanswered"):
        load_task(read(**chosen))
    with path.open("a") as more:
        more.write(json.dumps({"question": "cd", "answer": "5"}) + "\n")
    task = load_task(read(**chosen, task__held_out=str(path), task__drop_unanswered=True))
    assert [example.prompt for example in task.held_out] == ["cd"]


def test_files_and_tasks_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"task.name is 'reverse'; the nearest is 'reversal'"):
        load_task(read(task__name="reverse"))
    with pytest.raises(ValueError, match=r"task.train is not given"):
        load_task(read(task__name="files"))
    with pytest.raises(ValueError, match="there is no file"):
        load_task(read(task__name="files", task__train=str(tmp_path / "none.jsonl")))
    with pytest.raises(ValueError, match="there is no folder"):
        load_task(read(model__name=str(tmp_path / "none")))


def test_plain_models_have_no_chat_template(tmp_path):
    with pytest.raises(ValueError, match="a model from scratch has no chat template"):
        load_task(read(task__chat=True))


def test_a_trust_region_is_one_update_of_the_policy():
    """4 updates of the plan are its critic's: the policy's are 5 in 5 iterations, and 20 for PPO."""
    changes = dict(schedule__steps=5, schedule__epochs=2, schedule__minibatches=2)
    for name, updates in (("trpo", 5), ("ppo", 20)):
        schedule = build(read(method__name=name, **changes)).schedule
        assert (schedule.plan.updates, schedule.updates, schedule.critic_updates) == (4, updates, 20)


def test_a_trust_region_has_no_moments_unless_it_begins_cold(tmp_path):
    """The optimizer has a part in a cold start alone: elsewhere there is no state, and no learning rate."""
    plain, descent = build(read(method__name="trpo")), build(read(method__name="ppo"))
    assert not jax.tree.leaves(plain.like.optimizer) and jax.tree.leaves(descent.like.optimizer)
    assert jax.tree.leaves(plain.like.critic.optimizer)
    data = tmp_path / "demonstrations.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"{a}b>", "response": f"b{a}"}) + "\n" for a in "abcde" * 2)
    )
    cold = build(read(method__name="trpo", cold_start={"steps": 2, "data": str(data)}))
    assert jax.tree.leaves(cold.like.optimizer)
    assert _rate(plain, 3, 2) == _rate(cold, 3, 2) == {}
    for setup, step in ((descent, 3), (cold, 2)):
        assert _rate(setup, step, 2) == {"learning_rate": pytest.approx(1e-3)}
    for setup, text in ((plain, "not read"), (cold, "of the cold start alone"), (descent, None)):
        shown = table(setup.config, setup.schedule, 1)
        cells = dict(zip(*(list(column.cells) for column in shown.columns), strict=True))
        assert (text is None and "optimizer" not in cells) or cells["optimizer"].startswith(text)


def test_the_learning_rate_is_that_of_the_updates_that_were_made():
    """4 epochs of 2 iterations come to 8 updates; of a linear decay from 1e-3, the second has 7/8."""
    setup = build(read(method__name="ppo", schedule__epochs=4, schedule__steps=2, optimizer__decay="linear"))
    assert setup.schedule.updates == 8
    assert _rate(setup, 2, 2)["learning_rate"] == pytest.approx(7 / 8 * 1e-3)
    assert _rate(setup, 2, 0)["learning_rate"] == 0


def test_the_best_is_of_the_methods_own_iterations():
    """A cold start's reward is that of demonstrations; where anything is held out, its accuracy counts."""
    metrics, own = {"reward": 0.9}, range(3, 9)
    assert [score({}, step, metrics, own) for step in (1, 2, 3, 8)] == [None, None, 0.9, 0.9]
    assert score({"2": {"sampled": 0.4, "greedy": 0.5}}, 2, metrics, own) == 0.4
    assert score({"2": {"sampled": 0.4}}, 3, metrics, own) is None


def test_the_fisher_information_is_found_in_float32():
    with pytest.raises(ValueError, match=r"model.dtype is 'bfloat16', and 'trpo' multiplies by the Fisher"):
        build(read(method__name="trpo", model__dtype="bfloat16"))
