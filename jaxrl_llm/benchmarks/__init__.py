"""Measurements behind `jaxrl-llm bench`: of the very objects that training and sampling build."""

from jaxrl_llm.benchmarks.reject import bench_reject
from jaxrl_llm.benchmarks.rollouts import bench_rollouts
from jaxrl_llm.benchmarks.sample import bench_sample
from jaxrl_llm.benchmarks.train import bench_loop, bench_train

__all__ = ["bench_loop", "bench_reject", "bench_rollouts", "bench_sample", "bench_train"]
