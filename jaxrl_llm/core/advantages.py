"""From rewards to advantages: by a critic, or by the other answers to the same prompt.

Tokens of an answer are those whose weight is above 0, wherever they stand in their row.  What lies between or after
them is stepped over, and holds 0.
"""

import jax
import jax.numpy as jnp
from jax import Array


def last_tokens(weights_BT: Array) -> Array:
    """[..., T] bool: the last token of every answer."""
    is_token_BT = weights_BT > 0
    left_BT = jax.lax.cumsum(is_token_BT.astype(jnp.int32), axis=is_token_BT.ndim - 1, reverse=True)
    return is_token_BT & (left_BT == 1)


def token_rewards(score_B: Array, k1_BT: Array, kl_coef_B: Array, weights_BT: Array) -> Array:
    """[..., T]: r_t = −β·k1_t + 1[t = last]·R; the score of an answer comes with its last token, ended or cut off."""
    cost_BT = jnp.where(weights_BT > 0, kl_coef_B[..., None] * k1_BT, 0.0)
    return jnp.where(last_tokens(weights_BT), score_B[..., None], 0.0) - cost_BT


def gae(reward_BT: Array, value_BT: Array, weights_BT: Array, gamma: float, lam: float) -> tuple[Array, Array]:
    """Advantages and returns [..., T] by generalised advantage estimation (Schulman et al., arXiv 1506.02438).

        δ_t = r_t + γ V_{t+1} − V_t        A_t = δ_t + γ λ A_{t+1}        Ret_t = A_t + V_t

    V_t is the value before token t is written; after the last one it is 0, for answers that were cut off too.
    """

    def step(later: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        next_value_B, next_advantage_B = later
        reward_B, value_B, is_token_B = now
        delta_B = reward_B + gamma * next_value_B - value_B
        advantage_B = delta_B + gamma * lam * next_advantage_B
        earlier = jnp.where(is_token_B, value_B, next_value_B), jnp.where(is_token_B, advantage_B, next_advantage_B)
        return earlier, jnp.where(is_token_B, advantage_B, 0.0)

    is_token_BT = weights_BT > 0
    nothing_B = jnp.zeros(reward_BT.shape[:-1], jnp.float32)
    by_time = jnp.moveaxis(reward_BT, -1, 0), jnp.moveaxis(value_BT, -1, 0), jnp.moveaxis(is_token_BT, -1, 0)
    _, advantage_TB = jax.lax.scan(step, (nothing_B, nothing_B), by_time, reverse=True)
    advantage_BT = jnp.moveaxis(advantage_TB, 0, -1)
    return advantage_BT, jnp.where(is_token_BT, advantage_BT + value_BT, 0.0)


def group_relative(reward_B: Array, group_B: Array, weights_B: Array, by_std: bool) -> Array:
    """R − mean of the group, over its (standard deviation + 1e-4) `by_std` (GRPO, arXiv 2402.03300, section 4.1.2).

    The deviation is that of a sample (n − 1).  Groups have any numbers, sizes and order; weights are 1 where there is
    an answer.  An answer that is alone in its group has the advantage 0.
    """
    same, n = _groups(group_B, weights_B)
    mean_N = _sums(same, reward_B) / n
    centred_N = reward_B.reshape(-1) - mean_N
    if by_std:
        variance_N = _sums(same, jnp.square(centred_N)) / jnp.maximum(n - 1, 1)
        centred_N = centred_N / (jnp.sqrt(variance_N) + 1e-4)
    return jnp.where(weights_B > 0, centred_N.reshape(reward_B.shape), 0.0)


def leave_one_out(reward_B: Array, group_B: Array, weights_B: Array) -> Array:
    """R − mean of the others of the group (RLOO, arXiv 2402.14740, section 3.3); groups as in `group_relative`."""
    same, n = _groups(group_B, weights_B)
    rewards_N = reward_B.reshape(-1)
    others_N = (_sums(same, reward_B) - rewards_N) / jnp.maximum(n - 1, 1)
    advantage_N = jnp.where(n > 1, rewards_N - others_N, 0.0)
    return jnp.where(weights_B > 0, advantage_N.reshape(reward_B.shape), 0.0)


def _groups(group_B: Array, weights_B: Array) -> tuple[Array, Array]:
    """[N, N] whether the second is an answer of the first one's group, and [N] how many the group has, at least 1."""
    group_N, is_answer_N = group_B.reshape(-1), weights_B.reshape(-1) > 0
    same_NN = (group_N[:, None] == group_N[None, :]) & is_answer_N[None, :]
    return same_NN, jnp.maximum(jnp.sum(same_NN, axis=1), 1)


def _sums(same_NN: Array, x_B: Array) -> Array:
    """[N]: of `x` over each one's group; a masked sum, which is exact float32 and the same on every run."""
    return jnp.sum(jnp.where(same_NN, x_B.reshape(1, -1), 0.0), axis=1)
