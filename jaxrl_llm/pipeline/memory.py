"""How much memory the training stages of a pipeline need: from shapes alone, of models that are not there yet too."""

from collections.abc import Collection, Iterator

from jaxrl_llm.errors import UserError
from jaxrl_llm.pipeline.planning import Pipeline


def memory(pipeline: Pipeline, names: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """(stage, peak, whether it fits) of those of these stages that train.

    Raises:
        UserError: a mesh that does not fit the devices here, a batch that cannot be cut.
    """
    from jaxrl_llm.parallel import runtime
    from jaxrl_llm.plan import Traces, make_plan, make_target
    from jaxrl_llm.plan.view import gib

    stages = [stage for stage in pipeline.stages if stage.verb == "train" and stage.name in names]
    if not stages:
        return
    runtime.start()
    target, traces, faults = make_target(), Traces(), []
    for stage in stages:
        try:
            peak = make_plan(stage.config, target, traces, pipeline.planned).peak
        except UserError as error:
            faults.append(f"{stage.origin}: stage {stage.name}: {error}")
            continue
        fits = (
            ""
            if target.limit is None
            else f"{'fits' if peak.device <= target.limit else 'DOES NOT FIT'} {gib(target.limit)}"
        )
        yield stage.name, f"{gib(peak.device)} a device in `{peak.name}`", fits
    if faults:
        raise UserError("\n".join(faults))
