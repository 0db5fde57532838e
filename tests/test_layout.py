"""The layout of the packages: small folders, short modules, and a test file for each module.

The tests of ``dino_infer/weights/hub.py`` are in ``tests/infer/weights/test_hub.py``, and so on for
``dino_train``, ``dino_export`` and ``dino_app``. ``TESTED_IN`` lists the exceptions.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PACKAGES = ("dino_infer", "training/dino_train", "export/dino_export", "app/dino_app")

MAX_MODULES = 16  # of one folder, besides __init__.py
MAX_LINES = 300  # of one module
MAX_UNTESTED_LINES = 60  # of a module that needs no test file

LONG = {
    "dino_infer.embedding.embedder",
    "dino_train.crops.triton_kernels",
}
"""Modules of more than ``MAX_LINES`` lines."""

TESTED_IN = {
    "dino_infer.attention.grids": "infer/attention/test_maps.py",
    "dino_infer.cli.protocols.all": "infer/evaluate/suite/test_running.py",
    "dino_infer.cli.protocols.copy_detection": "infer/evaluate/test_copy_detection.py",
    "dino_infer.cli.protocols.knn": "infer/cli/test_eval.py",
    "dino_infer.cli.protocols.labelled": "infer/evaluate/test_linear.py",
    "dino_infer.cli.protocols.linear": "infer/evaluate/test_linear.py",
    "dino_infer.cli.protocols.logistic": "infer/evaluate/test_logistic.py",
    "dino_infer.cli.protocols.retrieval": "infer/evaluate/retrieval/test_classes.py",
    "dino_infer.cli.protocols.shared": "infer/evaluate/test_knn.py",
    "dino_infer.cli.plan": "infer/features/test_plan.py",
    "dino_infer.embedding.batches": "infer/embedding/test_embedder.py",
    "dino_infer.embedding.exported_files": "infer/embedding/test_engines.py",
    "dino_infer.evaluate.data.mask_layouts": "infer/evaluate/data/test_masks.py",
    "dino_infer.evaluate.suite.plans": "infer/evaluate/suite/test_running.py",
    "dino_infer.evaluate.suite.protocols": "infer/evaluate/suite/test_running.py",
    "dino_infer.evaluate.reports.result": "infer/evaluate/test_knn.py",
    "dino_infer.features.unfinished": "infer/features/test_writer.py",
    #
    "dino_app.client.messages": "app/client/test_clients.py",
    "dino_train.cli": "train/test_pretraining.py",
    "dino_train.given": "train/recipes/test_derived.py",
    "dino_train.crops.boxes": "train/crops/test_parameters.py",
    "dino_train.crops.numba_kernel": "train/crops/test_in_workers.py",
    "dino_train.crops.on_device": "train/crops/test_executors.py",
    "dino_train.crops.spec": "train/crops/test_parameters.py",
    "dino_train.data.batches": "train/test_pretraining.py",
    "dino_train.data.dataset": "train/data/test_loader.py",
    "dino_train.data.decode_sizes": "train/data/test_loader.py",
    "dino_train.data.gpu_cache": "train/data/test_ram_cache.py",
    "dino_train.monitoring.evaluation": "train/test_pretraining.py",
    "dino_train.head": "train/test_initialisation.py",
    "dino_train.monitoring.occasions": "train/test_pretraining.py",
    "dino_train.planning.command": "train/planning/test_plan.py",
    "dino_train.recipes.explained": "train/recipes/test_derived.py",
    "dino_train.recipes.published": "train/test_config.py",
    "dino_train.records.progress": "train/test_pretraining.py",
    "dino_train.records.report_page": "browser/test_report.py",
    "dino_train.records.run_folder": "train/records/test_snapshots.py",
    "dino_train.run": "train/test_pretraining.py",
    "dino_train.student_teacher": "train/test_learner.py",
    #
    "dino_app.demo.albums": "app/demo/tabs/test_search.py",
    "dino_app.demo.photo_sets": "app/demo/tabs/test_pca.py",
    "dino_app.demo.style": "browser/test_shell.py",
    "dino_app.demo.tabs.attention": "browser/test_attention.py",
    "dino_app.demo.tabs.attention_controls": "browser/test_attention.py",
    "dino_app.demo.tabs.compare": "browser/test_compare.py",
    "dino_app.demo.tabs.objects": "app/demo/tabs/test_mask_pictures.py",
    "dino_app.demo.tabs.track": "app/demo/tabs/test_paint.py",
    "dino_app.demo.tabs.brush": "app/demo/tabs/test_paint.py",
    "dino_app.demo.tabs.video": "browser/test_video.py",
    "dino_app.demo.tiles": "app/demo/tabs/test_search.py",
    "dino_app.demo.vectors": "app/demo/tabs/test_search.py",
    "dino_app.demo.voters": "app/demo/tabs/test_classify.py",
    #
    "dino_app.server.app": "app/server/test_service.py",
    "dino_app.server.errors": "app/server/test_request_images.py",
    "dino_app.server.responses": "app/server/test_openapi.py",
    "dino_app.server.uvicorn_server": "app/server/test_middleware.py",
    # faiss_store/test_store.py and milvus_store/test_store.py run all of conformance.py.
    "dino_app.store.faiss_store.base": "app/store/faiss_store/test_tampering.py",
    "dino_app.store.faiss_store.delta": "app/store/faiss_store/test_store.py",
    "dino_app.store.faiss_store.disk.head": "app/store/faiss_store/test_strangers.py",
    "dino_app.store.faiss_store.disk.item_table": "app/store/faiss_store/test_strangers.py",
    "dino_app.store.faiss_store.disk.log": "app/store/faiss_store/test_strangers.py",
    "dino_app.store.faiss_store.disk.manifest": "app/store/faiss_store/test_strangers.py",
    "dino_app.store.faiss_store.disk.thumbnail_files": "app/store/faiss_store/test_sharing.py",
    "dino_app.store.faiss_store.following": "app/store/faiss_store/test_sharing.py",
    "dino_app.store.faiss_store.merging": "app/store/faiss_store/test_sharing.py",
    "dino_app.store.faiss_store.reading": "app/store/faiss_store/test_sharing.py",
    "dino_app.store.faiss_store.search.columns": "app/store/faiss_store/test_store.py",
    "dino_app.store.faiss_store.search.exact": "app/store/faiss_store/search/test_approximate.py",
    "dino_app.store.faiss_store.search.gpu": "app/store/faiss_store/search/test_approximate.py",
    "dino_app.store.faiss_store.searching": "app/store/faiss_store/test_store.py",
    "dino_app.store.faiss_store.snapshots": "app/store/faiss_store/test_tampering.py",
    "dino_app.store.faiss_store.view": "app/store/faiss_store/test_store.py",
    "dino_app.store.faiss_store.writing": "app/store/faiss_store/test_kills.py",
    "dino_app.store.filters": "app/store/faiss_store/test_store.py",
    "dino_app.store.interface": "app/store/faiss_store/test_store.py",
    "dino_app.store.item_checks": "app/store/faiss_store/test_store.py",
    "dino_app.store.milvus_store.connection": "app/store/milvus_store/test_store.py",
    "dino_app.store.milvus_store.filters": "app/store/milvus_store/test_store.py",
    "dino_app.store.milvus_store.searching": "app/store/milvus_store/test_store.py",
    "dino_app.store.opening": "app/store/milvus_store/test_store.py",
}
"""Modules without a test file of their own, each with the file in ``tests`` that exercises it."""


def _modules() -> dict[str, Path]:
    """Files of all modules by their dotted names."""
    return {
        ".".join(path.relative_to((ROOT / package).parent).with_suffix("").parts): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
    }


MODULES = _modules()
LINES = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}


def own_test(module: str) -> Path:
    """The place of a module's own test file."""
    package, *folders, name = module.split(".")
    return TESTS.joinpath(package.removeprefix("dino_"), *folders, f"test_{name}.py")


def test_every_package_is_found():
    assert {name.split(".")[0] for name in MODULES} == {Path(package).name for package in PACKAGES}


def test_no_folder_holds_too_many_modules():
    folders = [str(path.parent.relative_to(ROOT)) for path in MODULES.values()]
    counts = {folder: folders.count(folder) for folder in folders}
    assert {folder: n for folder, n in counts.items() if n > MAX_MODULES} == {}


def test_only_the_listed_modules_are_long():
    assert {name for name, lines in LINES.items() if lines > MAX_LINES} == LONG


def test_every_module_has_its_own_test_file_or_a_row_in_the_table():
    tested = {name for name in MODULES if own_test(name).is_file()} | TESTED_IN.keys()
    assert {name for name in MODULES if LINES[name] > MAX_UNTESTED_LINES} - tested == set()


def test_every_row_of_the_table_names_a_module_and_a_test_file_that_exist():
    assert TESTED_IN.keys() - MODULES.keys() == set()
    test_files = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert set(TESTED_IN.values()) - test_files == set()


def test_no_module_in_the_table_has_its_own_test_file():
    assert {name for name in TESTED_IN if own_test(name).is_file()} == set()
