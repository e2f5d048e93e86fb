"""Reading a run back: events, logs, metrics, artifacts."""

import hashlib

import pytest


def test_events_come_in_pages(plane, submit):
    job = submit()
    grant = plane.lease(job)
    warnings = [{"type": "warning", "message": str(number)} for number in range(5)]
    plane.events(grant, *warnings)
    first = plane.user.get(f"/v1/jobs/{job}/events", params={"limit": 3}).json()
    rest = plane.user.get(f"/v1/jobs/{job}/events", params={"after": first["next_after"]}).json()
    messages = [item["event"]["message"] for item in first["items"] + rest["items"]]
    assert messages == ["0", "1", "2", "3", "4"]
    assert rest["next_after"] == 500


def test_the_log_is_read_from_its_end_and_then_on(plane, submit):
    job = submit()
    url = f"/v1/jobs/{job}/logs"
    assert plane.user.get(url).text == ""
    log = plane.run_dir(job) / "log.txt"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    tail = plane.user.get(url, params={"tail": 30})
    assert tail.text == "line 97\nline 98\nline 99\n"
    with open(log, "a") as file:
        file.write("more: ü\n")
    more = plane.user.get(url, params={"offset": tail.headers["X-Next-Offset"]})
    assert more.text == "more: ü\n"
    assert int(more.headers["X-Next-Offset"]) == log.stat().st_size


def test_metrics_are_the_complete_rows_of_the_file(plane, submit):
    job = submit()
    assert plane.user.get(f"/v1/jobs/{job}/metrics").json() == {"items": [], "next_after": 0}
    path = plane.run_dir(job) / "metrics.jsonl"
    path.write_text('{"step":1,"loss":2.5}\n{"step":2,"loss":NaN}\n{"step":3,"lo')
    answer = plane.user.get(f"/v1/jobs/{job}/metrics").json()
    assert answer["items"] == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}]
    after = {"after": answer["next_after"]}
    assert plane.user.get(f"/v1/jobs/{job}/metrics", params=after).json()["items"] == []


def test_damaged_rows_of_the_metrics_are_left_out(plane, submit):
    job = submit()
    path = plane.run_dir(job) / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n\0\0\xff\n{"step":3}\n17\n')
    url = f"/v1/jobs/{job}/metrics"
    first = plane.user.get(url, params={"limit": 1}).json()
    assert first == {"items": [{"step": 1}], "next_after": 1}
    rest = plane.user.get(url, params={"after": 1}).json()
    assert rest == {"items": [{"step": 3}], "next_after": 4}


@pytest.fixture
def run_with_picture(plane, submit):
    job = submit()
    grant = plane.lease(job)
    data = b"\x89PNG picture"
    digest = hashlib.sha256(data).hexdigest()
    folder = plane.run_dir(job) / "pictures"
    folder.mkdir()
    (folder / "loss curve.png").write_bytes(data)
    artifact = {"type": "artifact", "kind": "picture", "bytes": len(data), "sha256": digest}
    plane.events(
        grant,
        {**artifact, "path": "pictures/loss curve.png", "bytes": 1},
        {**artifact, "path": "pictures/gone.png"},
        {**artifact, "path": "pictures/loss curve.png"},
        {**artifact, "path": "../../../../etc/passwd"},
    )
    return job, data


def test_artifacts_are_listed_once_with_what_is_there(plane, run_with_picture):
    job, data = run_with_picture
    items = plane.user.get(f"/v1/jobs/{job}/artifacts").json()["items"]
    assert [(item["path"], item["exists"]) for item in items] == [
        ("pictures/loss curve.png", True),
        ("pictures/gone.png", False),
        ("../../../../etc/passwd", False),
    ]
    assert items[0]["bytes"] == len(data)
    answer = plane.user.get(items[0]["url"])
    assert (answer.content, answer.headers["content-type"]) == (data, "image/png")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "..%2Fsecret",
        "pictures/../../secret",
        "pictures%2F..%2F..%2Fsecret",
        "%2Fetc%2Fpasswd",
        "/etc/passwd",
        "link",
        "pictures",
        "%00",
        "pictures/none.png",
    ],
)
def test_no_path_leads_out_of_the_run_directory(plane, run_with_picture, path):
    job, _data = run_with_picture
    secret = plane.settings.runs / "secret"
    secret.write_text("for nobody")
    (plane.run_dir(job) / "link").symlink_to(secret)
    answer = plane.user.get(f"/v1/jobs/{job}/artifacts/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
