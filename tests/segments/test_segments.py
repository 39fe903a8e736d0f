"""The connector with the real SDK against the server of the contract: roles, faults, bad input."""

from __future__ import annotations

import io
import json
import logging
import pickle
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from segments_platform import Platform
from segments_server import FAULTS, KEY, SIGNATURE, Faults, Server, serving

from connectors import retrying, segments_dataset
from connectors.segments_ai import SegmentsAi
from connectors.testing import PlatformContract, SourceContract
from prelabel.cli import main
from prelabel.coco import check_panoptic, read_panoptic
from prelabel.data import Category, ImageRecord, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, ConnectorError, ImageError, LabelError
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance
from prelabel.ports import Delivery, PushRules

CATEGORIES = [
    {"id": 31, "name": "car", "has_instances": True, "color": [200, 0, 0]},
    {"id": 7, "name": "sky", "has_instances": False, "color": [0, 0, 200]},
]
OURS = Ontology((Category(1, "car", True), Category(2, "sky", False)))
MAP = np.array([[1, 1, 2, 2, 2, 2]] * 3 + [[0, 0, 2, 2, 2, 2]], dtype=np.int32)
WHERE = "me/street::allow-private"


def _image(size: tuple[int, int] = (6, 4), orientation: int | None = None) -> bytes:
    stream, image = io.BytesIO(), Image.new("RGB", size, (0, 0, 200))
    image.paste((200, 0, 0), (0, 0, 2, 3))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(stream, format="PNG", exif=exif)
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    platform = Platform()
    platform.add_dataset("me/street", CATEGORIES, labelsets=("ground-truth", "second"))
    for name in ("a.png", "b.png", "night/c.png"):
        platform.add_sample("me/street", name, _image(), metadata={"mine": 1})
    with serving(Server(platform)) as running:
        monkeypatch.setenv("SEGMENTS_API_KEY", KEY)
        monkeypatch.setenv("SEGMENTS_API_URL", running.url)
        yield running


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses and a short end."""
    patience = retrying.Patience

    def hasty(answer: float) -> retrying.Patience:
        return patience(answer=min(answer, 1.0), step=6.0, first=0.01, longest=0.05)

    monkeypatch.setattr(segments_dataset, "Patience", hasty)
    monkeypatch.setattr("connectors.web.SILENCE_SECONDS", 1.0)


def _label(image_id: str = "a.png") -> PanopticLabel:
    car = Segment(1, 1, True, 6, (0, 0, 2, 3), 0.5, 2, 0.25, "thing:0")
    sky = Segment(2, 2, False, 16, (2, 0, 6, 4), 0.75, None, 0.75, "stuff:0")
    return PanopticLabel(image_id, MAP, (car, sky))


def _delivery(connector: SegmentsAi, name: str = "a.png", **more: str) -> Delivery:
    record = next(one for one in connector.records() if one.image_id == name)
    return Delivery(record, _label(name), (), "prelabel 1", "f00d", **more)


def _checked(where: str = WHERE) -> SegmentsAi:
    connector = SegmentsAi(where)
    connector.check(OURS)
    return connector


def _run(folder: Path, *names: str) -> Path:
    store = LabelStore(folder / "run")
    for name in names:
        store.write(ImageRecord(name, ""), _label(name), Provenance("prelabel 1", "f00d"))
    (folder / "run" / "config.yaml").write_text(
        "ontology: {things: [{id: 1, name: car}], stuff: [{id: 2, name: sky}]}\n"
    )
    return folder / "run"


def _cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(list(arguments))
    return int(ending.value.code or 0)


# --- the contracts ----------------------------------------------------------------------------


class TestSource(SourceContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.server = server

    def make_source(self) -> SegmentsAi:
        return SegmentsAi(WHERE)


class TestPlatform(PlatformContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.server = server

    def make_platform(self) -> SegmentsAi:
        return SegmentsAi(WHERE)

    def make_delivery(self) -> Delivery:
        return _delivery(SegmentsAi(WHERE))

    def let_a_person_label(self, record: ImageRecord) -> None:
        self.server.platform.edit(record.ref, np.ones((4, 6), dtype=np.int32), {1: 31})

    ontology = OURS


# --- what is sent -----------------------------------------------------------------------------


def test_what_a_person_finds_on_the_platform(server: Server) -> None:
    connector, platform = _checked(), server.platform
    delivery = _delivery(connector)
    assert connector.push(delivery, PushRules(pin_doubts=True), lambda text: None) == "sent"
    label = platform.labels[delivery.record.ref, "ground-truth"]
    assert label["label_status"] == "PRELABELED"
    # 6 pixels of 0.5 and 16 of 0.75 in 24, void counts as 0.
    assert label["score"] == pytest.approx(0.625)
    assert label["attributes"]["annotations"] == [
        {
            "id": 1,
            "category_id": 31,
            "attributes": {"score": 0.5, "margin": 0.25, "runner_up": "sky"},
        },
        {"id": 2, "category_id": 7, "attributes": {"score": 0.75, "margin": 0.75}},
    ]
    assert platform.bitmap(delivery.record.ref).tolist() == MAP.tolist()
    sample = platform.samples[delivery.record.ref]
    assert sample["priority"] == pytest.approx(0.375)
    assert sample["metadata"] == {
        "mine": 1,
        "prelabel_tool": "prelabel 1",
        "prelabel_fingerprint": "f00d",
    }
    (issue,) = platform.issues
    assert issue["description"] == "prelabel: car, score 0.50; or sky?"
    assert issue["anchor"] == {"type": "location", "location": {"type": "2d", "x": 0, "y": 0}}
    assert platform.violations == []
    assert connector.verify(delivery) == ""


def test_pushed_twice_is_once(server: Server) -> None:
    for _ in range(2):
        connector = _checked()
        delivery = _delivery(connector)
        connector.push(delivery, PushRules(pin_doubts=True), lambda text: None)
    assert len(server.platform.labels) == len(server.platform.issues) == 1


def test_a_noted_bitmap_is_not_uploaded_again(server: Server) -> None:
    connector, notes = _checked(), []
    connector.push(_delivery(connector), PushRules(), notes.append)
    connector.push(_delivery(connector, noted=notes[0]), PushRules(), notes.append)
    assert len(notes) == len(server.platform.assets) == 1


def test_another_labelset(server: Server) -> None:
    connector = _checked(f"{WHERE}::labelset=second")
    delivery = _delivery(connector)
    connector.push(delivery, PushRules(), lambda text: None)
    assert list(server.platform.labels) == [(delivery.record.ref, "second")]
    with pytest.raises(ConfigError, match="no labelset 'third'; it has ground-truth, second"):
        _checked(f"{WHERE}::labelset=third")


# --- faults -----------------------------------------------------------------------------------

RETRIED = [kind for kind in FAULTS if kind not in ("burst", "expired")]
REQUESTS = (
    *("GET /api_status/", "POST /assets/", "POST /store/", "GET /labels/", "PUT /labels/"),
    *("GET /samples/", "PATCH /samples/", "GET /files/", "POST /samples/.*/issues/"),
)


@pytest.mark.parametrize("kind", RETRIED)
def test_every_fault_at_every_request_is_survived(server: Server, kind: str) -> None:
    connector = _checked()
    server.faults = Faults(
        planned=[(f"^{request}", kind) for request in REQUESTS if "api_status" not in request],
        hang_seconds=1.2,
    )
    delivery = _delivery(connector)
    assert connector.push(delivery, PushRules(pin_doubts=True), lambda text: None) == "sent"
    assert connector.verify(delivery) == ""
    assert server.faults.planned == []
    assert len(server.platform.labels) == len(server.platform.issues) == 1
    assert len(server.platform.orphans()) <= sum(server.faults.counts.values())
    assert server.platform.violations == []


@pytest.mark.parametrize("kind", ["hang", "500", "reset"])
def test_a_server_that_fails_at_the_first_call(server: Server, kind: str) -> None:
    server.faults = Faults(planned=[("api_status", kind)], hang_seconds=1.2)
    assert len(list(SegmentsAi(WHERE).records())) == 3


@pytest.mark.parametrize("kind", ["429-seconds", "503-date"])
def test_all_threads_wait_when_one_is_told_to(server: Server, kind: str) -> None:
    connector = _checked()
    records = {one.image_id: one for one in connector.records()}
    connector.verify(Delivery(records["a.png"], _label("a.png")))  # connected
    server.faults = Faults(planned=[("GET /labels/", kind)])
    times: list[float] = []

    def ask(name: str) -> None:
        connector.verify(Delivery(records[name], _label(name)))
        times.append(time.monotonic())

    start = time.monotonic()
    first = threading.Thread(target=ask, args=("a.png",))
    first.start()
    while not server.faults.counts:
        time.sleep(0.01)
    time.sleep(0.05)
    ask("b.png")
    first.join()
    # A date has whole seconds: 2 s from now is at least 1 s from now.
    assert min(times) - start >= 0.9


def test_an_expired_store_signature_gets_a_new_one(server: Server) -> None:
    connector = _checked()
    server.faults = Faults(planned=[("POST /store/", "expired")])
    connector.push(_delivery(connector), PushRules(), lambda text: None)
    assert server.requests["POST /assets/"] == 2


def test_an_expired_image_address_is_asked_for_again(server: Server) -> None:
    connector = SegmentsAi(WHERE)
    record, *_ = connector.records()
    server.platform.epoch += 1
    assert connector.read(record).size == (4, 6)
    assert pickle.loads(pickle.dumps(connector)).read(record).size == (4, 6)


def test_a_key_that_is_withdrawn_stops_the_upload(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path, "a.png", "b.png", "night/c.png")
    server.faults = Faults(planned=[("PUT /labels/", "401")])
    arguments = ("upload", str(run), "--to", f"segments-ai:{WHERE}", "--jobs", "1", "--json")
    assert _cli(*arguments) == 7
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["left"] == 3 and "SEGMENTS_API_KEY" in summary["stopped"]
    assert server.platform.labels == {}
    assert _cli(*arguments) == 0
    assert len(server.platform.labels) == 3
    assert server.platform.orphans() == []


def test_pages_end_also_where_the_last_is_full(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_dataset, "_PER_PAGE", 3)
    assert len(list(SegmentsAi(WHERE).records())) == 3
    assert server.requests["GET /datasets/me/street/samples/"] == 2


def test_a_person_who_is_faster_keeps_the_work(server: Server) -> None:
    connector, platform = _checked(), server.platform
    delivery = _delivery(connector)
    drawn = np.full((4, 6), 9, dtype=np.int32)

    def note(_: str) -> None:
        """Between reading and writing."""
        platform.edit(delivery.record.ref, drawn, {9: 7})

    assert connector.push(delivery, PushRules(), note) == "human"
    assert platform.human_touched == []
    assert platform.bitmap(delivery.record.ref).tolist() == drawn.tolist()
    assert "prelabel_tool" not in platform.samples[delivery.record.ref]["metadata"]
    assert connector.push(delivery, PushRules(overwrite_human=True), note) == "sent"
    assert platform.bitmap(delivery.record.ref).tolist() == MAP.tolist()


def test_a_platform_that_stays_down_is_told_as_such(server: Server) -> None:
    connector = _checked()
    delivery = _delivery(connector)
    server.faults = Faults(1.0, ("500",))
    with pytest.raises(ConnectorError, match="answers 500") as caught:
        connector.push(delivery, PushRules(), lambda text: None)
    assert caught.value.retryable


# --- bad input --------------------------------------------------------------------------------


def test_what_is_refused_before_anything_is_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.platform.add_dataset("me/boxes", CATEGORIES, task_type="bboxes")
    server.platform.add_dataset("me/zero", [{"id": 0, "name": "car"}])
    with pytest.raises(ConfigError, match="no dataset 'me/nothing'"):
        SegmentsAi("me/nothing").check(OURS)
    with pytest.raises(ConfigError, match="task type 'bboxes'"):
        SegmentsAi("me/boxes").check(OURS)
    with pytest.raises(ConfigError, match="'car' has id 0"):
        SegmentsAi("me/zero").check(OURS)
    with pytest.raises(ConfigError, match=r"no category called 'bus'; it has 'car', 'sky'"):
        SegmentsAi("me/street").check(Ontology((Category(1, "bus", True),)))
    (remark,) = SegmentsAi("me/street").check(Ontology((Category(1, "car", True),)))
    assert remark.endswith("since the config lacks them: sky")
    monkeypatch.setenv("SEGMENTS_API_KEY", "wrong")
    with pytest.raises(ConnectorError, match="does not accept the key") as caught:
        SegmentsAi("me/street").check(OURS)
    assert caught.value.kind == "denied"


def test_an_image_that_the_platform_does_not_have(server: Server) -> None:
    connector = _checked()
    with pytest.raises(ConnectorError, match=r"has no sample called 'z\.png'") as caught:
        connector.push(
            Delivery(ImageRecord("z.png", ""), _label("z.png")), PushRules(), lambda text: None
        )
    assert caught.value.kind == "gone"


def test_a_sample_is_found_by_the_last_part_of_its_name(server: Server) -> None:
    connector = _checked()
    assert connector.remote_status(ImageRecord("c.png", "")) == ""
    assert connector.remote_status(ImageRecord("photos/a.png", "")) == ""
    assert connector.remote_status(ImageRecord("z.png", "")) is None


def test_a_last_part_that_two_images_have_is_nobodys(server: Server, tmp_path: Path) -> None:
    run = _run(tmp_path, "x/a.png", "y/a.png", "z/b.png", "b.png")
    assert _cli("upload", str(run), "--to", f"segments-ai:{WHERE}") == 3
    names = {key: one["name"] for key, one in server.platform.samples.items()}
    assert [names[key] for key, _ in server.platform.labels] == ["b.png"]


def test_sizes_that_differ_by_exif(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    turned = server.platform.add_sample("me/street", "t.png", _image(orientation=6))
    connector = _checked()
    delivery = Delivery(ImageRecord("t.png", ""), _label("t.png"))
    with pytest.raises(LabelError, match=r"\(4, 6\), the image on the platform \(6, 4\); one of"):
        connector.push(delivery, PushRules(), lambda text: None)
    assert server.platform.assets == {}
    with caplog.at_level(logging.WARNING):
        assert connector.read(ImageRecord("t.png", "", turned)).size == (6, 4)
    assert "turned by its EXIF" in caplog.text


def test_an_image_that_is_gone(server: Server) -> None:
    connector = SegmentsAi(WHERE)
    with pytest.raises(ImageError) as caught:
        connector.read(ImageRecord("z.png", "", "00000000-0000-0000-0000-000000000000"))
    assert caught.value.kind == "gone"


# --- there and back ---------------------------------------------------------------------------


def test_there_and_back_is_exact(server: Server, tmp_path: Path) -> None:
    run = _run(tmp_path, "a.png", "b.png", "night/c.png")
    assert _cli("upload", str(run), "--to", f"segments-ai:{WHERE}") == 0
    for (_, labelset), label in server.platform.labels.items():
        assert labelset == "ground-truth"
        label["label_status"] = "REVIEWED"
    out = tmp_path / "back"
    assert _cli("download", f"segments-ai:{WHERE}", "--out", str(out)) == 0
    assert list(check_panoptic(out / "panoptic.json")) == []
    file = read_panoptic(out / "panoptic.json")
    assert [one.file_name for one in file.images] == ["a.png", "b.png", "night/c.png"]
    assert {one.name: (one.category_id, one.isthing) for one in file.categories} == {
        "car": (31, True),
        "sky": (7, False),
    }
    for annotation in file.annotations:
        assert file.id_map(annotation).tolist() == MAP.tolist()
        assert {one.segment_id: one.category_id for one in annotation.segments} == {1: 31, 2: 7}


def test_random_maps_come_back_as_they_went(server: Server) -> None:
    connector = _checked()
    rng, record = np.random.default_rng(3), next(iter(connector.records()))
    for count in (1, 255, 256, 300):
        ids = rng.integers(1, count + 1, size=(30, 40)).astype(np.int32)
        ids.ravel()[:count] = np.arange(1, count + 1)
        areas = np.bincount(ids.ravel())
        segments = tuple(
            Segment(k, 1, True, int(areas[k]), (0, 0, 40, 30), 0.5, None, 0.5, "x")
            for k in range(1, count + 1)
        )
        delivery = Delivery(record, PanopticLabel(record.image_id, ids, segments))
        connector.push(delivery, PushRules(), lambda text: None)
        assert connector.verify(delivery) == ""
        back = connector.pull(record)
        assert np.array_equal(back.id_map, ids)
        assert back.category_ids == dict.fromkeys(range(1, count + 1), 31)


def test_reviewed_labels_say_how_good_the_prelabels_were(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path, "a.png", "b.png")
    coco = tmp_path / "coco"
    main_arguments = ("export", str(run), "--to", "coco-panoptic", "--out", str(coco))
    assert _cli(*main_arguments) == 0
    uuids = {one["name"]: key for key, one in server.platform.samples.items()}
    server.platform.edit(uuids["a.png"], MAP, {1: 31, 2: 7}, "REVIEWED")
    corrected = MAP.copy()
    corrected[3, :2] = 2
    server.platform.edit(uuids["b.png"], corrected, {1: 31, 2: 7}, "LABELED")
    out = tmp_path / "back"
    assert _cli("download", f"segments-ai:{WHERE}", "--out", str(out)) == 0
    capsys.readouterr()
    documents = []
    for prediction in (str(run), str(coco / "panoptic.json")):
        assert _cli("evaluate", prediction, str(out), "--json") == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    assert documents[0]["images"] == 2
    kept = {name: row["kept"] for name, row in documents[0]["per_class"].items()}
    adjusted = {name: row["adjusted"] for name, row in documents[0]["per_class"].items()}
    assert (kept, adjusted) == ({"car": 2, "sky": 1}, {"car": 0, "sky": 1})


def test_a_config_for_the_dataset(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    from prelabel.config import build_config
    from prelabel.strict_yaml import parse_yaml

    assert _cli("init", f"segments-ai:{WHERE}") == 0
    document = parse_yaml(capsys.readouterr().out, "config.yaml")
    config = build_config(document, "config.yaml")
    assert config.source == f"segments-ai:{WHERE}" and config.out == "runs/street"
    assert [(one.category_id, one.name, one.color) for one in config.ontology.things] == [
        (31, "car", (200, 0, 0))
    ]
    assert [one.name for one in config.ontology.stuff] == ["sky"]


def test_from_the_platform_through_a_run_and_back(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images from the dataset, labelled, uploaded; only what no person has touched."""
    uuids = {one["name"]: key for key, one in server.platform.samples.items()}
    server.platform.edit(uuids["b.png"], MAP, {1: 31, 2: 7})
    config = tmp_path / "c.yaml"
    config.write_text(
        "ontology: {things: [{id: 31, name: car, color: [200, 0, 0]}],"
        " stuff: [{id: 7, name: sky, color: [0, 0, 200]}]}\n"
        "detect: {kind: paint}\nsegment: {kind: paint}\nstuff: {kind: paint}\n"
        "cache: {enabled: false}\n"
    )
    run, where = tmp_path / "run", f"segments-ai:{WHERE}"
    arguments = ("run", str(config), "--source", where, "--out", str(run), "--engine", "inline")
    assert _cli(*arguments, "--set", "ontology.things.0.name=bus", "--limit", "1") == 0
    assert "me/street::allow-private has no category bus: labels" in capsys.readouterr().err
    assert _cli("doctor", *arguments[1:4], "--set", "ontology.stuff.0.name=sea") in (0, 2)
    assert "has no category sea" in capsys.readouterr().out
    assert _cli(*arguments, "--fresh") == 0
    assert "has no category" not in capsys.readouterr().err
    assert _cli("upload", str(run), "--to", where) == 0
    bitmap = server.platform.bitmap(uuids["a.png"])
    assert (bitmap[:3, :2] == bitmap[0, 0]).all() and bitmap[0, 0] != bitmap[0, 3]
    assert {key for key, _ in server.platform.labels} == set(uuids.values())
    assert server.platform.human_touched == []


# --- secrets ----------------------------------------------------------------------------------


def test_no_secret_is_ever_shown_or_kept(
    server: Server,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, where = _run(tmp_path, "a.png", "b.png", "z.png"), f"segments-ai:{WHERE}"
    server.faults = Faults(0.2, random=random.Random(1), hang_seconds=1.2)
    with caplog.at_level(logging.DEBUG):
        for arguments in (
            ("upload", str(run), "--to", where, "--pin-doubts", "--json"),
            ("download", where, "--out", str(tmp_path / "x"), "--status", "PRELABELED"),
        ):
            _cli(*arguments)
        server.faults = Faults()
        server.denied = True
        assert _cli("upload", str(run), "--to", where, "--retry") == 7
        assert _cli("init", where) == 7
    printed = capfd.readouterr()
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    # The SDK's own libraries log at DEBUG what they send; prelabel shows warnings only.
    shown = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    for secret in (KEY, SIGNATURE):
        assert secret not in printed.out + printed.err + "".join(shown)
        assert secret.encode() not in kept
