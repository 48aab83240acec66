"""O-13: trust regions, on quadratics and on a network whose Fisher matrix is written out by enumeration."""

import bigram
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from gpg_jax.algorithms import ALGORITHMS
from gpg_jax.policies.architecture import Architecture
from gpg_jax.policies.critic import head_critic, trunk_critic
from gpg_jax.policies.score import score
from gpg_jax.training.plan import Plan
from gpg_jax.training.program import Program
from gpg_jax.training.sharding import ROWS, make_mesh, row_shards, state_shardings
from gpg_jax.training.state import create_critic_state, create_state
from gpg_jax.training.step import compile_step, make_step
from gpg_jax.training.trust_region import (
    Trial,
    add_scaled,
    conjugate_gradient,
    dot,
    fisher_vector_product,
    line_search,
    relative_residual,
    step_length,
)
from gpg_jax.types import TrustRegion

WIDTH = 4
POLICY = bigram.policy(
    Architecture(
        vocab_size=32, width=WIDTH, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=4, max_length=64
    )
)
PARAMS = POLICY.init(jax.random.key(3))
ROLLOUT = small.rollout()
OPTIMIZER = optax.adam(0.1)
REGION = TrustRegion(radius=0.02, iterations=200, tolerance=1e-12, damping=0.05)
METHOD = ALGORITHMS["cpi"](entropy_coefficient=0.02)._replace(update=REGION)
"""A surrogate without gate or critic, and a bonus, whose step is bounded."""
ACTED = np.asarray(ROLLOUT.action_mask)
STATES = ROLLOUT.tokens[:, :-1][ACTED[:, 1:]]
CHOICES = ROLLOUT.tokens[ACTED]

# ------------------------------------------------------------------------------------ on any pytree


def quadratic(seed, size=6):
    """H of condition below 1e3 and a target, as a matrix and as functions of a pytree, in float64."""
    draw = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(draw.normal(size=(size, size)))
    matrix = basis @ np.diag(np.logspace(-1.5, 1.5, size)) @ basis.T
    target = {"a": jnp.asarray(draw.normal(size=(2, 2))), "b": jnp.asarray(draw.normal(size=size - 4))}
    flat, unravel = ravel_pytree(target)

    def product(vector):
        return unravel(jnp.asarray(matrix) @ ravel_pytree(vector)[0])

    return matrix, np.asarray(flat), target, product


@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradients_solve_and_the_step_spends_the_radius(seed):
    with jax.enable_x64(True):
        matrix, flat, target, product = quadratic(seed)
        solved = conjugate_gradient(product, target, 30, 1e-24)
        x = ravel_pytree(solved.x)[0]
        np.testing.assert_allclose(matrix @ x, flat, atol=1e-8)
        np.testing.assert_allclose(x, np.linalg.solve(matrix, flat), atol=1e-8)
        assert solved.residual < 1e-8 and solved.iterations < 30
        curvature = dot(solved.x, product(solved.x))
        length = step_length(0.01, curvature)
        np.testing.assert_allclose(0.5 * length**2 * (x @ matrix @ x), 0.01, rtol=1e-12)


def test_conjugate_gradients_stop_where_they_are_told_and_say_how_far_they_came():
    with jax.enable_x64(True):
        matrix, flat, target, product = quadratic(0)
        for iterations, tolerance in ((2, 0.0), (30, 0.3)):
            solved = conjugate_gradient(product, target, iterations, tolerance)
            rest = np.linalg.norm(flat - matrix @ ravel_pytree(solved.x)[0]) / np.linalg.norm(flat)
            np.testing.assert_allclose(solved.residual, rest, rtol=1e-10)
            assert solved.iterations == 2 if tolerance == 0 else rest**2 < 0.3 and solved.iterations < 6
            larger = conjugate_gradient(
                product, add_scaled(target, 9.0, target), iterations, tolerance
            )  # ten times as much: as many products, ten times the solution
            assert larger.iterations == solved.iterations
            np.testing.assert_allclose(ravel_pytree(larger.x)[0], 10 * ravel_pytree(solved.x)[0], rtol=1e-9)


def test_the_recurrence_flatters_where_a_product_does_not():
    """float32, a condition of 1e5: ‖b − Hx‖/‖b‖ in float64 is what a product says, ten times the other."""
    draw = np.random.default_rng(0)
    basis, _ = np.linalg.qr(draw.normal(size=(200, 200)))
    matrix = np.float32(basis @ np.diag(np.logspace(-2.5, 2.5, 200)) @ basis.T + 0.1 * np.eye(200))
    target = jnp.asarray(draw.normal(size=200), jnp.float32)

    def product(vector):
        return jnp.dot(matrix, vector, precision="highest")

    solved = jax.jit(lambda b: conjugate_gradient(product, b, 1000, 1e-10))(target)
    exact = np.asarray(target, np.float64) - np.float64(matrix) @ np.asarray(solved.x, np.float64)
    exact = np.linalg.norm(exact) / np.linalg.norm(target)
    found = relative_residual(target, product(solved.x))
    np.testing.assert_allclose(found, exact, rtol=0.3)
    assert solved.residual < 1e-5 < 3e-5 < exact
    assert relative_residual(jnp.zeros(2), jnp.zeros(2)) == 0


def test_conjugate_gradients_end_at_what_is_no_curvature():
    target = {"a": jnp.array([1.0, 2.0])}
    for diagonal in ([-1.0, -1.0], [0.0, 0.0], [jnp.nan, 1.0]):
        solved = conjugate_gradient(lambda v, d=diagonal: {"a": jnp.array(d) * v["a"]}, target, 5, 1e-10)
        np.testing.assert_array_equal(solved.x["a"], 0)
        assert solved.residual == 1
    nothing = conjugate_gradient(lambda v: v, {"a": jnp.zeros(2)}, 5, 1e-10)
    assert nothing.iterations == nothing.residual == 0


@pytest.mark.parametrize("curvature", [0.0, -1.0, np.nan, np.inf])
def test_without_curvature_there_is_no_length(curvature):
    assert step_length(0.01, jnp.float32(curvature)) == 0


def test_the_fisher_product_of_a_table_is_its_matrix():
    """F = Σ_s d_s (diag(p_s) − p_s p_sᵀ) of a table of logits, and the natural gradient is F⁺g."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        logits, share = jnp.asarray(draw.normal(size=(3, 4))), np.array([0.5, 0.3, 0.2])
        p = np.asarray(jax.nn.softmax(logits))

        def divergence(new):
            gap = jax.nn.log_softmax(logits) - jax.nn.log_softmax(new)
            return jnp.sum(share * jnp.sum(p * gap, axis=1))

        vector = jnp.asarray(draw.normal(size=(3, 4)))
        found = fisher_vector_product(divergence, logits, vector)
        blocks = [w * (np.diag(row) - np.outer(row, row)) for w, row in zip(share, p, strict=True)]
        np.testing.assert_allclose(found, [b @ v for b, v in zip(blocks, vector, strict=True)], atol=1e-15)
        gradient = jnp.asarray(
            np.stack([b @ v for b, v in zip(blocks, draw.normal(size=(3, 4)), strict=True)])
        )
        solved = conjugate_gradient(
            lambda v: fisher_vector_product(divergence, logits, v), gradient, 12, 1e-26
        )
        natural = [np.linalg.pinv(b) @ g for b, g in zip(blocks, gradient, strict=True)]
        np.testing.assert_allclose(solved.x, natural, atol=1e-8)


def search(gain, divergence, length=8.0, **options):
    """θ = 0, x = 1: what is measured is a function of the step itself."""
    options = {"radius": 1.0, "shrink": 0.5, "attempts": 5} | options
    return line_search(
        lambda params: Trial(gain(params["w"]), divergence(params["w"])),
        {"w": jnp.float32(0.1)},
        {"w": jnp.float32(1.0)},
        jnp.float32(length),
        **options,
    )


def test_the_first_length_that_gains_within_the_radius_is_taken():
    found = search(lambda w: 3 - w, lambda w: w / 2.5)  # 8.1 and 4.1 lose, 2.1 gains and is near enough
    assert found.accepted and found.refused == 2 and found.scale == 2.0
    np.testing.assert_allclose(found.params["w"], 2.1)
    np.testing.assert_allclose([found.trial.gain, found.trial.divergence], [0.9, 0.84], rtol=1e-5)
    assert search(lambda w: 3 - w, lambda w: w / 2.05).refused == 3


@pytest.mark.parametrize(
    "gain, divergence, length",
    [
        (lambda w: -w, lambda w: 0 * w, 8.0),
        (lambda w: 0 * w, lambda w: 0 * w, 8.0),
        (lambda w: w, lambda w: 2 + w, 8.0),
        (lambda w: w, lambda w: w * jnp.nan, 8.0),
        (lambda w: w * jnp.nan, lambda w: 0 * w, 8.0),
        (lambda w: w, lambda w: 0 * w, np.inf),
    ],
    ids=["loses", "even", "too far", "KL unknown", "gain unknown", "endless"],
)
def test_what_is_refused_moves_no_bit(gain, divergence, length):
    found = search(gain, lambda w: jnp.where(jnp.isfinite(w), divergence(w), jnp.nan), length)
    assert not found.accepted and found.refused == 5 and found.scale == 0
    np.testing.assert_array_equal(found.params["w"], np.float32(0.1))


def test_without_a_length_nothing_is_tried():
    found = search(lambda w: w, lambda w: 0 * w, 0.0)
    assert not found.accepted and found.refused == 0 and found.params["w"] == np.float32(0.1)


# --------------------------------------------------------------------------------------- on rollouts


def plan(**options):
    return Plan(layout=small.LAYOUT, rows=len(ROLLOUT.length), **options)


def run(method=METHOD, critic=None, rollout=ROLLOUT, mesh=None, devices=None, params=PARAMS, **options):
    """One step, on one device, on a mesh by `jit`, or by `shard_map` on so many devices."""
    own = None if critic is None else (critic, OPTIMIZER)
    trained = None
    if critic is not None:
        trained = create_critic_state(critic.init(jax.random.key(0), params), OPTIMIZER)
    state = create_state(jax.tree.map(jnp.copy, params), method, OPTIMIZER, jax.random.key(5), trained)
    if devices is not None:
        step = make_step(
            Program(POLICY, method, OPTIMIZER, plan(shards=devices, **options), own, axis_name="devices")
        )
        whole = {"in_specs": Spec(), "out_specs": Spec(), "check_vma": False}
        mapped = jax.shard_map(step, mesh=Mesh(jax.devices()[:devices], "devices"), **whole)
        return jax.jit(mapped)(state, rollout)
    if mesh is None:
        return compile_step(make_step(Program(POLICY, method, OPTIMIZER, plan(**options), own)))(
            state, rollout
        )
    shardings = state_shardings(state, OPTIMIZER, mesh)

    def constrain(rows):
        return jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, ROWS))

    cut = plan(shards=row_shards(mesh), **options)
    step = make_step(Program(POLICY, method, OPTIMIZER, cut, own, constrain=constrain))
    return compile_step(step, shardings)(jax.device_put(state, shardings), rollout)


@pytest.fixture(scope="module")
def whole():
    return run()


def table(params):
    """log π(v | token), `[V, V]`."""
    tokens = jnp.arange(32)[None]
    hidden, _ = POLICY.hidden(params, tokens, tokens, ())
    return jax.nn.log_softmax(POLICY.unembed(params, hidden[0]))


def mean_divergence(params):
    before = table(PARAMS)
    return jnp.mean(jnp.sum(jnp.exp(before) * (before - table(params)), axis=1)[STATES])


@pytest.fixture(scope="module")
def explicit():
    """g and F = E_s E_{a~π}[∇log π ∇log πᵀ], over the actions and all tokens in their place."""
    flat, unravel = ravel_pytree(PARAMS)
    total = np.zeros(len(ROLLOUT.reward))
    for row, group in enumerate(ROLLOUT.group):
        others = (ROLLOUT.group == group) & (np.arange(len(total)) != row)
        total[row] = ROLLOUT.reward[row] - ROLLOUT.reward[others].mean()
    advantage = np.broadcast_to(total[:, None], ACTED.shape)[ACTED]

    def surrogate(flat):
        log_prob = table(unravel(flat))
        ratio = jnp.exp(log_prob - table(PARAMS))[STATES, CHOICES]
        entropy = -jnp.sum(jnp.exp(log_prob) * log_prob, axis=1)[STATES]
        return jnp.mean(ratio * advantage + 0.02 * entropy)

    @jax.jit
    def both(flat):
        slopes = jax.jacfwd(lambda flat: table(unravel(flat)))(flat)
        share = jnp.zeros(32).at[STATES].add(1 / len(STATES))
        weight = share[:, None] * jnp.exp(table(unravel(flat)))
        return jax.grad(surrogate)(flat), jnp.einsum("sv,svi,svj->ij", weight, slopes, slopes)

    gradient, fisher = (np.asarray(leaf, np.float64) for leaf in both(flat))
    return gradient, fisher, surrogate


def flat_step(state):
    return np.asarray(ravel_pytree(state.params)[0], np.float64) - np.asarray(ravel_pytree(PARAMS)[0])


def test_the_step_is_the_natural_gradient_to_the_edge_of_the_region(whole, explicit):
    """(F + λI)x = g, solved; β = √(2δ/xᵀFx); θ + ξʲβx; the KL behind it, measured apart, is at most δ."""
    gradient, fisher, surrogate = explicit
    state, metrics = whole
    x = np.linalg.solve(fisher + 0.05 * np.eye(len(fisher)), gradient)
    length = np.sqrt(2 * 0.02 / (x @ fisher @ x)) * 0.5 ** float(metrics["trust_region_backtracks"])
    np.testing.assert_allclose(flat_step(state), length * x, atol=2e-3 * np.abs(length * x).max())
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient), rtol=1e-4)
    np.testing.assert_allclose(metrics["update_norm"], length * np.linalg.norm(x), rtol=2e-3)
    np.testing.assert_allclose(metrics["trust_region_expected"], length * gradient @ x, rtol=2e-3)
    np.testing.assert_allclose(metrics["trust_region_curvature"], x @ fisher @ x, rtol=2e-3)
    assert metrics["trust_region_accepted"] == 1 and metrics["cg_residual"] < 1e-5
    divergence = mean_divergence(state.params)
    np.testing.assert_allclose(metrics["trust_region_kl"], divergence, rtol=1e-3)
    assert 0.2 * 0.02 < divergence <= 0.02, "within the region, and no small part of it"
    flat = ravel_pytree(state.params)[0]
    gain = surrogate(flat) - surrogate(ravel_pytree(PARAMS)[0])
    np.testing.assert_allclose(metrics["trust_region_gain"], gain, rtol=1e-3)
    assert gain > 0
    assert state.update == state.rollout == 1
    assert metrics["ratio_max"] > 1.05, "the loss's metrics are of the policy behind the step"
    jax.tree.map(np.testing.assert_array_equal, state.optimizer, OPTIMIZER.init(PARAMS))


def test_a_direction_that_is_not_solved_is_told(explicit):
    """Three products: ‖g − (F + λI)x‖/‖g‖ of the x that the step went along, by the matrix."""
    gradient, fisher, _ = explicit
    state, metrics = run(METHOD._replace(update=REGION._replace(iterations=3)))
    length = np.sqrt(2 * 0.02 / metrics["trust_region_curvature"])
    x = flat_step(state) / (length * 0.5 ** float(metrics["trust_region_backtracks"]))
    rest = np.linalg.norm(gradient - fisher @ x - 0.05 * x) / np.linalg.norm(gradient)
    assert metrics["cg_iterations"] == 3 and rest > 0.01
    np.testing.assert_allclose(metrics["cg_residual"], rest, rtol=5e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 64, "micro_batches": 4},
        {"mesh": (2, 2, 2), "micro_batches": 2},
        {"devices": 4, "micro_batches": 2},
    ],
    ids=str,
)
def test_the_step_is_the_same_however_it_is_cut(whole, options):
    if "mesh" in options:
        options = options | {"mesh": make_mesh(options["mesh"])}
    state, metrics = run(**options)
    size = np.abs(flat_step(whole[0])).max()
    assert size > 0.02
    np.testing.assert_allclose(flat_step(state), flat_step(whole[0]), atol=2e-3 * size)
    assert metrics.keys() == whole[1].keys()
    for name, value in metrics.items():
        if not name.startswith("cg_"):  # a rounding decides which iteration is the last
            np.testing.assert_allclose(value, whole[1][name], rtol=5e-3, atol=1e-5, err_msg=name)


def same_bits(state, params=PARAMS):
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


def test_where_nothing_is_to_be_gained_no_bit_moves():
    """Equal rewards: no gradient, no direction. A region that its first length leaves, with no other."""
    even = ROLLOUT.replace(reward=np.ones_like(ROLLOUT.reward))
    plain = ALGORITHMS["cpi"]()._replace(update=TrustRegion(radius=50.0, attempts=1))
    program = Program(POLICY, plain, OPTIMIZER, plan())
    step = jax.jit(make_step(program))
    state = create_state(PARAMS, plain, OPTIMIZER, jax.random.key(5))
    after, metrics = step(state, even)
    same_bits(after)
    assert metrics["trust_region_accepted"] == metrics["trust_region_backtracks"] == 0
    assert metrics["gradient_norm"] == metrics["trust_region_curvature"] == metrics["update_norm"] == 0
    after, metrics = step(state, ROLLOUT)
    same_bits(after)
    assert metrics["trust_region_accepted"] == 0 and metrics["trust_region_backtracks"] == 1
    for name in ("trust_region_kl", "trust_region_gain", "trust_region_expected", "update_norm"):
        assert metrics[name] == 0, name
    np.testing.assert_allclose(metrics["ratio_max"], 1, rtol=1e-5)
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    broken = ROLLOUT.replace(reward=np.where(np.arange(32) == 3, np.nan, ROLLOUT.reward).astype(np.float32))
    after, metrics = step(state, broken)
    same_bits(after)
    assert metrics["trust_region_accepted"] == 0 and np.isnan(metrics["gradient_norm"])


def test_the_critic_is_fitted_besides_by_the_plan_and_the_policy_steps_once():
    """A critic on the policy's states, whose loss would move them, and one on its own: the same step."""
    method = ALGORITHMS["trpo"](radius=0.02, value_coefficient=70.0)
    found = [
        run(method, critic, epochs=2, minibatches=2)
        for critic in (head_critic(WIDTH), trunk_critic(POLICY, WIDTH))
    ]
    for state, metrics in found:
        assert np.abs(state.critic.params["weight"]).max() > 0.01
        assert state.critic.optimizer[0].count == 4 and state.update == 1
        assert metrics["critic_gradient_norm"] > 0
        assert 0 < metrics["trust_region_kl"] <= 0.02
        np.testing.assert_allclose(metrics["trust_region_kl"], mean_divergence(state.params), rtol=1e-3)
    (head, seen), (trunk, other) = found
    assert np.abs(trunk.critic.params["trunk"]["embedding"] - PARAMS["embedding"]).max() > 0.01
    np.testing.assert_allclose(seen["loss"], other["loss"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(flat_step(head), flat_step(trunk), atol=2e-3 * np.abs(flat_step(trunk)).max())


def test_the_full_kl_of_a_transformer_and_its_fisher_product():
    """KL(θ_old‖θ_old ± v) ≈ ½vᵀFv, in three directions v; the product with chunked heads, the KL without."""
    params, draw = small.params(), np.random.default_rng(0)

    def random_like(leaf):
        return draw.normal(size=leaf.shape).astype(np.float32)

    def inner(one, other):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return sum(np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs)

    def divergence(params, old=None, chunk=0):
        scores = score(
            small.policy(),
            params,
            ROLLOUT.tokens,
            ROLLOUT.prompt_length,
            ROLLOUT.length,
            small.LAYOUT,
            temperature=0.7,
            needs=frozenset({"kl_old"}),
            old=old,
            chunk=chunk,
        )
        return jnp.sum(jnp.where(ACTED, scores.kl_old, 0)) / ACTED.sum()

    measured = jax.jit(lambda sign, step: divergence(add_scaled(params, sign, step), params))
    product = jax.jit(lambda v: fisher_vector_product(lambda x: divergence(x, chunk=64), params, v))
    for _ in range(3):
        direction = jax.tree.map(random_like, params)
        size = np.float32(0.01 / np.sqrt(inner(direction, direction)))
        step = jax.tree.map(lambda leaf, size=size: size * leaf, direction)
        beside = [measured(np.float32(sign), step) for sign in (1, -1)]
        quadratic = 0.5 * inner(step, product(step))
        assert quadratic > 1e-4
        np.testing.assert_allclose(np.mean(beside), quadratic, rtol=0.02)


def test_what_a_trust_region_does_not_read_is_refused():
    with pytest.raises(ValueError, match="2 epochs of 1 minibatches are a critic's, and the method has none"):
        make_step(Program(POLICY, METHOD, OPTIMIZER, plan(epochs=2)))
    with pytest.raises(ValueError, match="halt leaves out minibatches"):
        make_step(Program(POLICY, METHOD._replace(halt=lambda seen: True), OPTIMIZER, plan()))
