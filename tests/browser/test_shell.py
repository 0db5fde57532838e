"""The page around the tabs, its API, and many people at once."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

TABS = ["Attention", "Objects", "Click a patch", "Paint", "Track", "PCA colours", "Search",
        "Classify", "Compare", "Video"]  # fmt: skip
ENDPOINTS = {"/attention", "/attention_video", "/compare", "/objects"}
PEOPLE = 8


def test_the_tabs_come_in_order_under_a_line_about_the_network(page):
    assert page.get_by_role("tab").all_inner_texts() == TABS
    assert (
        "vit_micro, a Vision Transformer with 1.2 million weights"
        in page.locator("#about-network").inner_text()
    )
    paper = page.get_by_role("link", name="Emerging Properties")
    assert paper.get_attribute("href") == "https://arxiv.org/abs/2104.14294"


def test_the_page_follows_the_colours_of_the_system(opened, demo_url):
    light, dark = opened(demo_url), opened(demo_url, dark=True)
    grounds = [
        one.evaluate("getComputedStyle(document.body).backgroundColor") for one in (light, dark)
    ]
    levels = [np.mean([int(part) for part in ground[4:-1].split(",")]) for ground in grounds]
    assert levels[0] > 230 and levels[1] < 40


def test_what_is_useful_to_programs_has_a_name_and_the_rest_is_private(page, demo_url):
    answer = page.request.get(f"{demo_url}/gradio_api/info").json()
    assert set(answer["named_endpoints"]) >= ENDPOINTS
    assert not [name for name in answer["named_endpoints"] if "_" in name[1:] and name not in
                ENDPOINTS | {"/patch_similarity", "/pca", "/search", "/classify"}]  # fmt: skip
    assert answer["unnamed_endpoints"] == {}


def test_eight_people_at_once_are_all_served_in_the_order_they_came(demo_url, coffee):
    with httpx.Client(base_url=f"{demo_url}/gradio_api", timeout=300) as client:
        call = attention_call(client, demo_url, coffee)
        for person in range(PEOPLE):
            joined = client.post("/queue/join", json=call | {"session_hash": f"person{person}"})
            assert joined.status_code == 200
        with ThreadPoolExecutor(PEOPLE) as people:
            served = list(people.map(lambda person: events(client, person), range(PEOPLE)))
    for one in served:
        assert one["process_completed"][0]["success"]
        assert "60% of its attention" in json.dumps(one["process_completed"][0]["output"])
    ranks = [one["estimation"][0]["rank"] for one in served if "estimation" in one]
    assert ranks == sorted(ranks) and ranks[-1] > 0  # there was a queue
    starts = [one["process_starts"][1] for one in served]
    assert starts == sorted(starts)


def test_no_click_is_dropped_or_taken_for_the_one_before(demo_url):
    config = httpx.get(f"{demo_url}/config").json()
    modes = [
        event["trigger_mode"]
        for event in config["dependencies"]
        for _, trigger in event["targets"]
        if trigger == "select"
    ]
    assert len(modes) > 3
    assert set(modes) == {"multiple"}


def attention_call(client, demo_url, photo):
    """What a page sends when somebody chooses a photo and leaves the settings as they are."""
    config = httpx.get(f"{demo_url}/config").json()
    endpoint = next(one for one in config["dependencies"] if one["api_name"] == "attention")
    settings = {one["id"]: one["props"].get("value") for one in config["components"]}
    path = client.post("/upload", files={"files": ("a.jpg", photo.read_bytes())}).json()[0]
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
    values = [settings[one] for one in endpoint["inputs"][1:]]
    return {"data": [picture, *values], "fn_index": endpoint["id"]}


def events(client, person):
    """What one person is told, each message once with the time when it came."""
    told = {}
    with client.stream("GET", f"/queue/data?session_hash=person{person}") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                told.setdefault(event["msg"], (event, time.monotonic()))
                if event["msg"] == "process_completed":
                    break
    return told
