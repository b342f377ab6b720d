"""The graphs, built without being run: every connection fits, for every composition of a session."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from nipype.pipeline import engine as pe
from nipype.pipeline.engine.utils import generate_expanded_graph

from bidsrep.bids.discovery import find_sessions
from bidsrep.settings import Settings
from bidsrep.workflows.models import RunModels
from bidsrep.workflows.participant import init_bidsrep_wf, node_prefixes
from bidsrep.workflows.plan import ModelSpec, SessionPlan, plan_session
from bidsrep.workflows.plugins import COMPLETE
from bidsrep.workflows.progress import Progress

MakeBids = Callable[..., Path]


def entry(name: str) -> dict[str, str]:
    return {"Name": name, "Weights": "w", "WeightsSHA256": "0", "WeightsStatus": "random", "License": "x"}


PEPSI = ModelSpec(
    "pepsi", {"T1w": "synthetic", "FLAIR": "synthetic", "lesion": "lesion_probability"}, entry("pepsi"), 16
)
BRAINID = ModelSpec(
    "brainid", {"T1w": "synthetic", "seg": "dseg", "superres": "superres"}, entry("brainid"), 64
)


class Graph:
    """The graph of a dataset, and its plans."""

    def __init__(self, root: Path, models: Sequence[ModelSpec] = (PEPSI,), **options: object) -> None:
        self.settings = Settings(
            bids_dir=root,
            out_dir=root.parent / "out",
            work_dir=root.parent / "work",
            models=tuple(model.name for model in models),
            **options,
        )
        weights = root.parent / "w.safetensors"
        weights.touch()
        names = [model.name for model in models] + ["brainmask"]
        run_models = RunModels(
            tuple(models), dict.fromkeys(names, weights), dict.fromkeys(names, "0"), "cpu", entry("brainmask")
        )
        sessions = find_sessions(self.settings)
        plans = [plan_session(session, self.settings, models) for session in sessions]
        self.plans: list[SessionPlan] = [plan for plan in plans if plan]
        self.workflow = init_bidsrep_wf(self.plans, self.settings, run_models)
        flat = generate_expanded_graph(self.workflow._create_flat_graph())
        self.nodes: dict[str, pe.Node] = {node.fullname.partition(".")[2]: node for node in flat.nodes()}
        self.graph = flat

    def ends(self, name: str) -> list[str]:
        """List the nodes whose name ends so."""
        return [full for full in self.nodes if full.endswith(name)]


def dataset(make_bids: MakeBids, scans: Sequence[str]) -> Path:
    return make_bids([f"sub-01/anat/sub-01_{scan}.nii.gz" for scan in scans])


@pytest.mark.parametrize(
    "scans",
    [
        ["T1w"],
        ["T2w"],
        ["T1w", "FLAIR"],
        ["FLAIR", "T2w", "PDw"],
        ["T1w", "ce-gado_T1w", "run-1_FLAIR", "run-2_FLAIR"],
    ],
)
@pytest.mark.parametrize("models", [(PEPSI,), (BRAINID, PEPSI)])
def test_every_scan_has_its_own_nodes(make_bids, scans, models):
    graph = Graph(dataset(make_bids, scans), models)
    count = len(scans)
    assert len(graph.ends("preprocess_wf.conform")) == count
    assert len(graph.ends("preprocess_wf.register")) == count - 1
    assert len(graph.ends("preprocess_wf.reference_grid")) == 1
    assert len(graph.ends(".represent")) == count * len(models)
    assert len(graph.ends("_evaluate")) == len(models)
    assert len(graph.ends(".measure_scans")) == 1


def test_every_planned_file_has_one_node_that_writes_it(make_bids):
    root = dataset(make_bids, ["T1w", "FLAIR", "acq-x_T2w"])
    graph = Graph(root, (PEPSI, BRAINID), save_features="dense")
    written = [n.inputs.out_path for n in graph.nodes.values() if "save_" in n.name]
    assert sorted(written) == sorted(str(file.path) for plan in graph.plans for file in plan.planned())


def test_all_inputs_that_must_be_given_are_connected(make_bids):
    graph = Graph(dataset(make_bids, ["T1w", "FLAIR"]), (PEPSI, BRAINID), bias_correct=True)
    for name, node in graph.nodes.items():
        fed = {field for *_, edge in graph.graph.in_edges(node, data=True) for _, field in edge["connect"]}
        for trait, spec in node.inputs.traits(mandatory=True).items():
            assert trait in fed or getattr(node.inputs, trait) is not spec.default, f"{name}.{trait}"


def test_node_names_say_subject_session_scan(make_bids):
    root = make_bids(["sub-01/ses-A/anat/sub-01_ses-A_acq-tra_FLAIR.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz"])
    graph = Graph(root)
    assert "sub_01_wf.ses_A_wf.acq_tra_FLAIR_wf.preprocess_wf.conform" in graph.nodes
    assert "sub_02_wf.session_wf.T1w_wf.pepsi_wf.represent" in graph.nodes
    prefixes = node_prefixes(graph.plans[0])
    assert prefixes == {"sub_01_wf.ses_A_wf.acq_tra_FLAIR_wf.": "acq-tra_FLAIR"}


def test_crash_files_go_to_the_session(make_bids):
    root = make_bids([f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz" for s in "AB"])
    graph = Graph(root)
    for name, node in graph.nodes.items():
        folder = node.config["execution"]["crashdump_dir"]
        label = "ses-A" if "ses_A" in name else "ses-B"
        assert folder == str(root.parent / "out/sub-01" / label / "log" / graph.settings.run_uuid)


def test_bias_correction_only_where_wanted(make_bids):
    root = dataset(make_bids, ["T1w", "FLAIR"])
    assert not Graph(root).ends("bias_correct")
    assert len(Graph(root, bias_correct=True).ends("bias_correct")) == 2


@pytest.mark.parametrize("sloppy", [False, True])
def test_sloppiness_reaches_the_nodes_that_can_be(make_bids, sloppy):
    graph = Graph(dataset(make_bids, ["T1w", "FLAIR"]), bias_correct=True, sloppy=sloppy)
    for kind in ("register", "bias_correct", "brain_mask"):
        names = graph.ends(f".{kind}")
        assert names
        assert {graph.nodes[name].inputs.sloppy for name in names} == {sloppy}


def test_heavy_nodes_say_what_they_need(make_bids):
    graph = Graph(dataset(make_bids, ["T1w"]), (PEPSI, BRAINID), omp_nthreads=3)
    narrow, wide = (graph.nodes[graph.ends(f"{m}_wf.represent")[0]] for m in ("pepsi", "brainid"))
    assert narrow.n_procs == wide.n_procs == 3
    assert 1 < narrow.mem_gb < wide.mem_gb < 6
    assert not wide.is_gpu_node()


def test_with_little_memory_networks_run_alone(make_bids):
    root = dataset(make_bids, ["T1w", "FLAIR"])
    usual, low = (
        Graph(root, (PEPSI, BRAINID), nprocs=6, omp_nthreads=2, low_mem=low_mem) for low_mem in (False, True)
    )
    networks = [*low.ends(".represent"), *low.ends(".brain_mask")]
    assert len(networks) == 6
    assert {usual.nodes[name].n_procs for name in networks} == {2}
    assert {low.nodes[name].n_procs for name in networks} == {6}
    assert {low.nodes[name].inputs.num_threads for name in networks} == {2}
    assert {low.nodes[name].n_procs for name in low.ends(".conform")} == {1}
    for name in low.ends(".represent"):
        assert low.nodes[name].inputs.low_mem
        assert not usual.nodes[name].inputs.low_mem
        assert low.nodes[name].mem_gb < usual.nodes[name].mem_gb


def test_little_memory_does_not_make_finished_steps_run_again(make_bids):
    root = dataset(make_bids, ["T1w"])
    hashes = []
    for low_mem in (False, True):
        graph = Graph(root, low_mem=low_mem)
        (name,) = graph.ends(".represent")
        hashes.append(graph.nodes[name].inputs.get_hashval()[1])
    assert hashes[0] == hashes[1]


def test_a_given_mask_reaches_its_node(make_bids):
    root = dataset(make_bids, ["T1w"])
    given = make_bids(["sub-01/anat/sub-01_desc-brain_mask.nii.gz"], root="masks")
    graph = Graph(root, derivatives={"masks": given})
    (name,) = graph.ends("brain_mask")
    assert graph.nodes[name].inputs.given_mask == str(given / "sub-01/anat/sub-01_desc-brain_mask.nii.gz")


def test_lesions_of_one_scan_do_not_wait_for_another(make_bids):
    import networkx as nx

    graph = Graph(dataset(make_bids, ["T1w", "FLAIR", "T2w"]))
    (lesions,) = graph.ends("FLAIR_wf.pepsi_wf.save_lesion_mask")
    before = {n.fullname for n in nx.ancestors(graph.graph, graph.nodes[lesions])}
    assert not any("T2w_wf" in name for name in before)


def test_progress_tells_which_session_is_complete(make_bids):
    files = [f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz" for s in ("a", "b")]
    graph = Graph(make_bids(files))
    whole = []
    progress = Progress(graph.plans, whole.append)
    progress(graph.nodes["sub_01_wf.ses_b_wf.T1w_wf.preprocess_wf.conform"], "end")
    assert not whole
    progress(graph.nodes["sub_01_wf.ses_b_wf.T1w_wf.preprocess_wf.conform"], COMPLETE)
    assert whole == [graph.plans[1]]


def test_progress_names_the_scan_and_the_model(make_bids, caplog):
    graph = Graph(dataset(make_bids, ["T1w", "FLAIR"]), (PEPSI, BRAINID))
    progress = Progress(graph.plans)
    with caplog.at_level(logging.INFO, logger="bidsrep"):
        progress(graph.nodes["sub_01_wf.session_wf.FLAIR_wf.pepsi_wf.represent"], "end")
        progress(graph.nodes["sub_01_wf.session_wf.T1w_wf.preprocess_wf.conform"], "end")
        progress(graph.nodes["sub_01_wf.session_wf.T1w_wf.preprocess_wf.conform"], "exception")
    assert caplog.messages == [
        "1/4: sub-01 FLAIR, pepsi",
        "sub-01 T1w: the step preprocess.conform failed.",
    ]


def test_progress_tells_what_is_running_and_guesses_the_time_left(make_bids, caplog, monkeypatch):
    graph = Graph(dataset(make_bids, ["T1w", "FLAIR"]), (PEPSI, BRAINID))
    clock = [0.0]
    monkeypatch.setattr("bidsrep.workflows.progress.time.monotonic", lambda: clock[0])
    progress = Progress(graph.plans)
    places = [f"{scan}_wf.{model}_wf" for scan in ("T1w", "FLAIR") for model in ("pepsi", "brainid")]
    nodes = [graph.nodes[f"sub_01_wf.session_wf.{place}.represent"] for place in places]
    with caplog.at_level(logging.INFO, logger="bidsrep"):
        for node in nodes:
            progress(node, "start")
        for number, node in enumerate(nodes, 1):
            clock[0] = 120.0 * number
            progress(node, "end")
    first, _, third, last = caplog.messages
    assert first.startswith("1/4: sub-01 T1w, pepsi; now sub-01 T1w (brainid.represent), sub-01 FLAIR (pepsi")
    assert third == "3/4, about 2 min left: sub-01 FLAIR, pepsi; now sub-01 FLAIR (brainid.represent)"
    assert last == "4/4: sub-01 FLAIR, brainid"
