"""All protocols of a plan on one network."""

import logging
from collections.abc import Callable, Sequence

from dino_infer.errors import DinoError
from dino_infer.evaluate.contestants import Network
from dino_infer.evaluate.reports.result import Result
from dino_infer.evaluate.reports.scorecard import Scorecard
from dino_infer.evaluate.suite.plans import Plan
from dino_infer.evaluate.suite.protocols import PROTOCOLS

logger = logging.getLogger(__name__)

Measured = Callable[[str, Result], None]


def run_suite(
    networks: Sequence[Network],
    plan: Plan,
    *,
    weights: str,
    seed: int = 0,
    measured: Measured = lambda name, result: None,
) -> Scorecard:
    """Run the protocols of a plan; one whose data cannot be used does not stop the others.

    Args:
        networks: The network to measure and, if floors are wanted, its untrained twin.
        plan: Protocols to run, with their data.
        weights: Name of the weights in the scorecard.
        seed: Seed of everything random.
        measured: Function that is called with the name and result of each protocol when it is done.
    """
    results, broken, skipped = [], {}, dict(plan.skipped)
    for name, arguments in plan.data.items():
        protocol = PROTOCOLS[name]
        if protocol.needs_patches and not networks[0].backbone.has_attention:
            skipped[name] = "it looks at patches, and this network has none"
            continue
        logger.info("%s ...", name)
        try:
            result = protocol.measure(networks, seed=seed, **arguments)
        except (DinoError, ValueError) as error:  # the data, or a setting of the plan
            logger.warning("%s failed: %s", name, error)
            broken[name] = str(error)
            continue
        measured(name, result)
        results.append(result)
    description = networks[0].embedder().description()
    return Scorecard(
        network={
            "weights": weights,
            "arch": networks[0].backbone.arch,
            "patch_size": networks[0].backbone.patch_size,
            "image_size": networks[0].info.view_size,
            "weights_sha256": description["weights_sha256"],
            "precision": description["precision"],
            "seed": seed,
        },
        results=results,
        skipped=skipped,
        broken=broken,
    )
