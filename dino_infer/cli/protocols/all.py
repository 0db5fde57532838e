"""dino-eval all."""

from pathlib import Path

import tyro

from dino_infer.cli.exit_codes import ALL_FAILED, GOOD, SOME_FAILED, inputs_code
from dino_infer.cli.options import DEFAULT_WEIGHTS, ComputeOptions, LimitOptions, WeightOptions
from dino_infer.cli.protocols.shared import ReportOptions, load, name_written


def all_protocols(
    data: tyro.conf.Positional[Path],
    /,
    *,
    only: tuple[str, ...] = (),
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
) -> int:
    """Run every protocol whose data is there, and print a table of their figures.

    With -o it also writes scorecard.html, one page with everything, scorecard.json, scorecard.md,
    and a folder for each protocol.

    Args:
        data: Folder with train/ and val/, images/ and masks/, copies/, video/ or revisited/, or a
            .toml file with a table for each protocol.
        only: Protocols to run; by default all whose data is there.
        report: Report, floors and repeatability.
        weights: Weights to measure; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network.
        limits: Limits of images.
    """
    from contextlib import nullcontext

    from dino_infer.evaluate.reports.report import hold_report, write_report
    from dino_infer.evaluate.reports.result import Result
    from dino_infer.evaluate.reports.scorecard import FILES, write_scorecard
    from dino_infer.evaluate.suite.plans import read_plan
    from dino_infer.evaluate.suite.running import run_suite

    plan = read_plan(data, only=only)
    out, paths = report.out, list[Path]()

    def written(name: str, result: Result) -> None:
        if out is not None:
            (out / name).mkdir(exist_ok=True)
            paths.extend(write_report(out / name, result))

    holding = (
        nullcontext() if out is None else hold_report(out, overwrite=report.overwrite, names=FILES)
    )
    with holding:
        networks = load(weights, compute, limits, report)
        scorecard = run_suite(
            networks,
            plan,
            weights=weights.weights or DEFAULT_WEIGHTS,
            seed=report.seed,
            measured=written,
        )
        print(scorecard.as_text())
        if out is not None:
            name_written([*paths, *write_scorecard(out, scorecard)])
    images = sum(result.images for result in scorecard.results)
    if scorecard.broken and not scorecard.results:
        return ALL_FAILED
    code = inputs_code(total=images, failed=sum(result.failed for result in scorecard.results))
    return SOME_FAILED if scorecard.broken and code == GOOD else code
