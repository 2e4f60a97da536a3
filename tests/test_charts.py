"""Charts draw what is in the table. The tests read the drawn SVG, not the specification."""

import base64
import json
import re
import struct
import subprocess
import sys
import zlib

import altair as alt
import nbformat
import numpy as np
import pandas as pd
import pytest

from memlab import charts
from memlab.charts.rows import thin
from tests.helpers import spoken_labels, symbol_places


def test_horizon_strip_shows_each_passage_and_the_median():
    table = pd.DataFrame(
        {
            "method": ["ours"] * 3 + ["theirs"] * 3,
            "text_id": list("abcabc"),
            "source": ["prose", "prose", "words"] * 2,
            "horizon": [176, 128, 144, 32, 40, 30],
            "failed_at": pd.Series([184, None, float("nan"), 40, 48, 32], dtype=object),  # JSON has no NaN
        }
    )
    marks = spoken_labels(charts.horizon_strip(table))
    for row in table.itertuples():
        assert sum(m.startswith(f"exact horizon, tokens: {row.horizon}; method: {row.method}") for m in marks) == 1
    assert "Median of horizon: 144; method: ours" in marks
    assert "Median of horizon: 32; method: theirs" in marks


def test_spectrum_tells_how_many_directions_hold_half():
    chart = charts.spectrum(np.array([0.4, 0.3, 0.2, 0.1]))
    assert chart.title == "Half of the gradient lies in 2 of 4 directions"
    svg = charts.to_svg(chart)
    (path,) = re.findall(r'aria-roledescription="line mark"[^>]* d="([^"]*)"', svg)
    points = np.array([[float(v) for v in pair.split(",")] for pair in re.findall(r"[ML]([\d.,]+)", path)])
    heights = 240 - points[:, 1]  # the share of all, cumulative
    np.testing.assert_allclose(heights / heights[-1], [0.4, 0.7, 0.9, 1.0], rtol=1e-3)
    assert charts.spectrum([0.5, 0.5]).title.endswith("in 1 of 2 directions")


def test_the_labels_of_lines_are_apart_and_in_the_order_of_their_ends():
    rows = [(name, step, end * step / 10) for name, end in [("a", 0.0), ("b", 1.0), ("c", 0.0), ("d", 1.0), ("e", 0.5)]
            for step in (0, 10)]  # fmt: skip
    svg = charts.to_svg(charts.exact_by_step(pd.DataFrame(rows, columns=["contender", "step", "share"])))
    places = dict(re.findall(r'transform="translate\([\d.]+,([\d.-]+)\)"[^>]*>([a-e])</text>', svg))
    names = [places[place] for place in sorted(places, key=float)]
    assert names == ["b", "d", "e", "a", "c"]
    heights = sorted(map(float, places))
    assert min(np.diff(heights)) > 14
    # Lines that stay at 0 do not hide each other.
    lines = re.findall(r'aria-roledescription="line mark"[^>]* d="[^"]*?,([\d.]+)"', svg)
    assert len(set(lines)) == 4  # two end at 100 %, one at 50 %, two near 0


def test_speed_chart_marks_failures_and_is_deterministic():
    table = pd.DataFrame(
        {
            "method": ["memlab", "paper2025", "paper2025"],
            "passage": ["a:16", "a:16", "b:16"],
            "tokens": [16, 16, 16],
            "decoded": [True, False, True],
            "seconds": [3.0, 600.0, 200.0],
        }
    )
    svg = charts.to_svg(charts.speed_chart(table))
    marks = spoken_labels(charts.speed_chart(table))
    assert sum("outcome: does not" in m and "passage: a:16" in m and "paper2025" in m for m in marks) == 1
    assert sum("outcome: decodes" in m for m in marks) == 2
    assert svg == charts.to_svg(charts.speed_chart(table))
    two = pd.concat([table.assign(device="cpu A"), table.assign(device="cpu B", seconds=table.seconds * 2)])
    both = charts.to_svg(charts.speed_chart(two))
    assert "cpu A" in both
    assert "cpu B" in both
    assert len([m for m in spoken_labels(charts.speed_chart(two)) if "outcome: " in m]) == 6
    (drawn,) = charts.speed_chart(two).to_dict()["datasets"].values()
    offsets = pd.DataFrame(drawn).groupby(["device", "method"]).jitter.min()
    assert (offsets == 0).all()  # each device starts at offset 0
    assert "cpu A" not in charts.to_svg(charts.speed_chart(two[two.device == "cpu A"]))


def test_capacity_by_model_draws_guide_lines_at_their_shares():
    table = pd.DataFrame(
        {
            "model": ["a", "b", "c"],
            "texts": "pg19",
            "d": [1000.0, 1000.0, 4000.0],
            "tokens": [100.0, 10.0, 40.0],
            "low": [80.0, np.nan, 30.0],
            "high": [120.0, np.nan, 50.0],
            "method": ["arXiv", "arXiv", "ours"],
        }
    )
    a, b, c = symbol_places(charts.capacity_by_model(table), "point")[:3]
    assert a[1] < c[1] < b[1]
    assert a[0] == b[0] < c[0]
    # One token per 100 numbers is a line of slope 1: b and c lie on it.
    svg = charts.to_svg(charts.capacity_by_model(table))
    lines = re.findall(r'aria-roledescription="line mark"[^>]* d="M([-\d.]+),([-\d.]+)L([-\d.]+),([-\d.]+)', svg)
    gaps = []
    for x1, y1, x2, y2 in np.array(lines, float):
        gaps.append(max(abs(y1 + (y2 - y1) * (p[0] - x1) / (x2 - x1) - p[1]) for p in (b, c)))
    assert min(gaps) < 1
    assert "bits in it, at 16 per number" in svg
    assert "16,384" in svg  # 1,024 numbers
    # An arrow joins the values of one model, and both ends have their number.
    same = table.assign(model="a", d=1000.0, texts=["pg19", "random", "classics"])
    joined = charts.to_svg(charts.capacity_by_model(same, "a"))
    assert joined.count('aria-roledescription="rule mark"') == svg.count('aria-roledescription="rule mark"') + 1
    assert ">100<" in joined
    assert ">a: 40<" in joined


def test_an_octave_is_equally_wide_in_tokens_and_in_bits():
    table = pd.DataFrame(
        {
            "texts": ["prose"] * 2 + ["words"] * 2,
            "text_id": list("abcd"),
            "horizon": [100, 200, 50, 100],
            "horizon_bits": [400.0, 800.0, 500.0, 1000.0],
        }
    )
    svg = charts.to_svg(charts.horizons_tokens_and_bits(table))
    ticks = re.findall(r'aria-label="([^"]*)"[^>]*aria-roledescription="tick"[^>]* d="M([-\d.]+),', svg)
    place = {}
    for label, x in ticks:
        unit = "bits" if "in bits" in label else "tokens"
        name = re.search(r"text_id: (\w)", label)
        if name:
            place[unit, name.group(1)] = float(x)
    octave = place["tokens", "b"] - place["tokens", "a"]
    assert octave > 0
    assert place["tokens", "d"] - place["tokens", "c"] == pytest.approx(octave, abs=0.1)
    assert place["bits", "b"] - place["bits", "a"] == pytest.approx(octave, abs=0.1)


def runs():
    return pd.DataFrame(
        {
            "text_id": list("abc"),
            "texts": ["prose", "prose", "words"],
            "length": [64, 128, 192],
            "seed": [0, 0, 1],
            "exact": [True, True, False],
            "bits_without": [250.0, 500.0, 900.0],
            "bits_with": [0.5, 1.0, 400.0],
            "token_bits_with": [np.full(3, np.nan)] * 3,  # a chart cannot hold arrays
        }
    )


def test_before_and_after_draws_the_runs_and_the_line():
    marks = spoken_labels(charts.before_and_after(runs(), 500.0))
    assert sum("outcome: exact" in m for m in marks) == 2
    assert sum("outcome: not exact" in m and "text_id: c" in m for m in marks) == 1
    points = symbol_places(charts.before_and_after(runs(), 500.0), "point")
    svg = charts.to_svg(charts.before_and_after(runs(), 500.0))
    lines = re.findall(r'aria-roledescription="line mark"[^>]* d="(M[^"]*)"', svg)
    (bent,) = [line for line in lines if line.count("L") == 2]
    corner = [float(v) for v in re.findall(r"L([-\d.]+),([-\d.]+)", bent)[0]]
    assert corner[0] == pytest.approx(points[1][0], abs=0.6)  # the line leaves 0 at 500 bits, the place of passage b


def test_bits_along_names_the_first_wrong_token():
    chart = charts.bits_along([np.nan, 2.0, 4.0, 1.0], [0.5, 0.0, 0.5, 3.0], 3)
    svg = charts.to_svg(chart)
    assert "The first 3 of 4 tokens come back" in svg
    drawn = chart.to_dict()
    (table,) = (rows for rows in drawn["datasets"].values() if len(rows) == 8)
    last = {row["line"]: row["bits"] for row in table if row["token"] == 4}
    assert last == {"without the vector": 7.0, "with the vector": 4.0}
    assert "All 2 tokens come back" in charts.to_svg(charts.bits_along([1.0, 2.0], [0.0, 0.0], 2))


def test_shares_codecs_vectors_and_predictions_are_drawn():
    shares = pd.DataFrame(
        {"bits_a_number": [4, 8], "share": [0.25, 1.0], "low": [0.1, 0.9], "high": [0.5, 1.0], "form": ["int4", "int8"]}
    )
    assert len(symbol_places(charts.survival_by_bits(shares), "point")) == 2
    codecs = pd.DataFrame({"codec": ["zip", "coder"], "texts": ["prose"] * 2, "bits_a_token": [32.0, 4.0]})
    marks = spoken_labels(charts.codec_bars(codecs))
    assert any("codec: coder" in m and "4" in m for m in marks)
    order = [m for m in marks if m.startswith("Y-axis")]
    assert "coder, zip" in order[0]  # shortest first
    vectors = pd.DataFrame({"k": [1, 2, 4] * 2, "tokens": [100.0, 200, 400, 90, 170, 330], "series": "ours"})
    vectors["text_id"] = [*"aaabbb"]
    vectors["share"] = vectors.tokens / vectors.k / 100
    assert len(symbol_places(charts.more_vectors(vectors), "point")) == 6
    assert "as much as the first" in charts.to_svg(charts.more_vectors(vectors))
    lines = [m for m in spoken_labels(charts.more_vectors(vectors)) if m.startswith(("k: ", "vectors side by side"))]
    assert len({m.split("text_id: ")[1].split(";")[0] for m in lines if "text_id: " in m}) == 2
    names = ["one, published", "two, published", "ours, prose", "ours, novels", "ours, random"]
    five = pd.concat([vectors.assign(series=name) for name in names])
    encoding = charts.more_vectors(five).to_dict()["layer"][1]["encoding"]
    colour, dash = (encoding[name]["scale"] for name in ("color", "strokeDash"))
    assert colour["domain"] == dash["domain"]
    assert colour["domain"][0] == "one, published"
    assert len(colour["domain"]) == len(names)
    assert len({(paint, *d) for paint, d in zip(colour["range"], dash["range"], strict=True)}) == 5
    predicted = pd.DataFrame(
        {"text_id": ["a"], "texts": ["prose"], "true": [100], "predicted": [90.0], "low": [80.0], "high": [95.0]}
    )
    assert any(
        "true: 100; predicted: 90" in m or "tokens: 90" in m for m in spoken_labels(charts.predictions(predicted))
    )


def test_a_kind_of_text_has_one_colour_in_every_chart():
    def colours(chart):
        specification = json.dumps(chart.to_dict())
        scale = re.search(r'"scale": \{"domain": (\[[^\]]*\]), "range": (\[[^\]]*\])\}', specification)
        return dict(zip(*map(json.loads, scale.groups()), strict=True))

    kinds = ["random", "originals"]
    codecs = pd.DataFrame({"codec": ["zip", "zip"], "texts": kinds, "bits_a_token": [32.0, 4.0]})
    predicted = pd.DataFrame(
        {"true": [1, 2], "predicted": [1, 2], "low": [0, 1], "high": [2, 3], "text_id": ["a", "b"], "texts": kinds}
    )
    lines = pd.DataFrame(
        {
            "k": [1, 1],
            "tokens": [1, 2],
            "share": [1.0, 1.0],
            "series": ["m, classics", "m, random"],
            "text_id": ["a", "b"],
        }
    )
    drawn = (charts.codec_bars(codecs), charts.predictions(predicted), charts.more_vectors(lines))
    first, second, third = map(colours, drawn)
    assert first == second
    assert first["random"] == third["m, random words"] != third["m, novels"]


LONG = "a very long label " * 20


def tables(n, label=""):
    """Arguments of every chart function, with ``n`` rows."""
    rng, i = np.random.default_rng(0), np.arange(n)

    def share():
        return rng.random(n)

    def names(*options):
        return pd.Series([options[k % len(options)] + label for k in i], dtype=str)

    table = pd.DataFrame
    few = min(n, 400)
    return {
        "along_a_path": [
            table(dict(t=i / max(n, 1), bits=share(), right=share(), tokens=8.0, exact=i % 2 == 0, way=names("line")))
        ],
        "attention_by_layer": [table(dict(layer=i % 64, on_first=share() / 2, on_mem=share() / 2))],
        "attention_map": [table(dict(layer=i % 64, head=i // 64, on_mem=share())), "on_mem", dict(title="T" + label)],
        "attention_view": [
            [
                (
                    "one", table(dict(layer=i % 64, head=i // 64, share=share())),
                    table(dict(layer=0, position=i + 1, share=share())),
                    table(dict(position=i + 1, token=names("Der"), before=share(), after=share())),
                )
            ][: n + 1 if n else 0],
            dict(title="T" + label),
        ],
        "before_and_after": [
            table(
                dict(
                    bits_without=share(), bits_with=share(), texts=names("originals"), text_id=names("a"),
                    length=i + 1.0, exact=i % 2 == 0,
                )
            ),
            300.0,
        ],
        "barriers_of_paths": [
            table(dict(kind=names("prose"), way=names("line"), barrier=share(), text_id=names("a")))
        ],
        "bits_by_length": [table(dict(tokens=i % 9, bits_a_number=i % 5 + 2))],
        "bits_along": [share(), share(), n // 2],
        "bits_per_number": [
            table(dict(model=names("m"), texts="pg19", bits_per_dimension=share(), method=names("ours", "published")))
        ],
        "capacity_by_model": [
            table(
                dict(
                    model=names("m"), texts="pg19", d=500 + share(), tokens=20 + share(), low=share(), high=share(),
                    method=names("x", "y"),
                )
            )
        ],
        "codec_bars": [table(dict(codec=names("zip"), texts=names("originals"), bits_a_token=share()))],
        "cut_into_tokens": [
            table(dict(texts=names("originals"), text_id=names("a"))).assign(token_bits=[np.ones(2)] * n)
        ],
        "densities": [
            table({"kind": names("k", "l"), "from": 1 + share(), "to": 3.0, "share": share()}), dict(title="T"),
        ],
        "distance_matrix": [rng.normal(size=(few, few)), names("a").tolist()[:few]],
        "exact_by_step": [table(dict(contender=names("a"), step=i, share=np.sort(share())))],
        "exact_places": [
            table(
                dict(
                    pair=i % 9, text_id=names("a"), kind=names("prose"), way=names("line"), t=i / max(n, 1),
                    exact=i % 2 == 0, right=8,
                )
            )
        ],
        "from_text_to_text": [
            table(dict(t=i / max(n, 1), of_a=share(), of_b=share(), written=names("w"))), ("one" + label, "other"),
        ],
        "horizon_strip": [
            table(dict(method=names("a"), text_id=names("t"), source=names("x"), horizon=share()))
        ],
        "horizons_tokens_and_bits": [
            table(dict(texts=names("originals"), text_id=names("a"), horizon=share(), horizon_bits=share()))
        ],
        "knocked_out": [
            table(
                dict(
                    layer=i // 2, mode="only", what=names("mem", "prefix"), accuracy=share(), low=share(), high=share()
                )
            )
        ],
        "loss_planes": [
            table(dict(plane=names("p"), x=(i % 40) / 40, y=(i // 40) / 40, bits=share(), exact=i % 2 == 0)),
            table(dict(plane=["p" + label], x=[0.0], y=[0.0], name=["n" + label])),
        ],
        "more_vectors": [
            table(
                dict(
                    k=2.0 ** (i % 5), tokens=share(), share=share(), series=names("m, classics", "m, random"),
                    text_id=names("a"),
                )
            )
        ],
        "norm_trajectories": [
            table(dict(text_id=names("a"), kind="x", tokens=8, step=i * 1.0, norm=1 + share(), last=i == n - 1))
        ],
        "predictions": [
            table(
                dict(
                    true=share(), predicted=share(), low=share(), high=share(), text_id=names("t"),
                    texts=names("originals"),
                )
            )
        ],
        "radii_by_direction": [
            table(dict(direction=names("r"), radius=share(), fails=share(), text_id=names("t"), margin=share()))
        ],
        "radius_by": [
            table(dict(text_id=names("a"), texts=names("originals"), tokens=i + 1.0, radius=0.1 + share())), "tokens",
            dict(x_title="tokens"),
        ],
        "readings": [table(dict(recipe=names("a"), text_id=names("t"), teacher_forced=share(), alone_right=share()))],
        "run_strip": [
            table(dict(i=i, group=names("g"), texts=names("originals"), tokens=share(), stored=i % 2 == 0, title="t"))
        ],
        "scatter": [
            table(dict(x=share(), y=share(), t=names("q"))), "x", "y",
            dict(x_title="X", y_title="Y", tooltip=["x", "t"]),
        ],
        "spread_by_charge": [table(dict(charge=i * 1.0, spread=share(), chance=share()))],
        "spectrum": [np.sort(share())[::-1]],
        "speed_ratios": [
            table(dict(device=names("cpu m"), ratio=10 + share(), low=9.0, high=12.0, passages=6)),
        ],
        "two_steps": [
            table(dict(method=names("m"), step=i, x=share(), y=share(), left=90.0, norm=1.0)),
        ],
        "speed_chart": [
            table(dict(method=names("a"), passage=names("p"), tokens=8, decoded=i % 2 == 0, seconds=share()))
        ],
        "landscape_map": [
            table(
                dict(
                    family=[f"F{1 + k % 2}" for k in i], system=names("s"), method=names("m"), sees="nothing",
                    stored_share=0.1 + share(), recovered_share=share(), net_share=share(), exact=i % 12, passages=12,
                )
            ),
            dict(ceiling=0.9, chosen="m"),
        ],
        "bit_prices": [
            table(
                dict(
                    family=[f"F{1 + k % 2}" for k in i], texts="originals", method=names("m"),
                    stored_share=0.1 + share(),
                    recovered_share=0.1 + share(),
                )
            )
        ],
        "by_share_kept": [
            table(dict(rule=names("r", "q"), share=share(), recovered_share=share(), method=names("m"))),
            dict(kept="tokens"),
        ],
        "predicted_and_measured": [
            table(dict(name=names("p"), low=share(), high=1 + share(), measured=share(), held=i % 2 == 0)),
            dict(x_title="share recovered"),
        ],
        "survival": [
            table(dict(direction=names("noise"), distance=share(), share=share(), low=share(), high=share()))
        ],
        "survival_by_bits": [
            table(dict(bits_a_number=share(), share=share(), low=share(), high=share(), form=names("f")))
        ],
        "step_ratios": [
            table(
                dict(
                    model=[f"m{k // 2}" for k in i], placement=names("s [mem] text", "[mem] s text"), ratio=1 + share(),
                    low=0.5 + share() / 2, high=2 + share(),
                )
            )
        ],
        "token_bits": [table(dict(position=i + 1, token=names("Der"), before=share(), after=share()))],
        "token_margins": [
            table(
                dict(
                    position=i + 1, token=names("Der"), written=names("Der", "Das"), right=i % 2 == 0, margin=share(),
                    rival=names("Das"), before=share(), after=share(),
                )
            ),
            table(dict(position=i + 1, rank=1, token=names("Der"), probability=share(), true=i % 2 == 0)),
        ],
        "tries_on_survival": [
            table(dict(distance=share(), share=share(), tokens_right=share())),
            table(dict(distance=[0.1], right=[0.5], exact=[False], what=["noise" + label])),
        ],
        "training_curve": [table(dict(step=i, loss=share(), accuracy=share()))],
        "nearest_words": [table(dict(passage=names("p"), word=names("w"), cosine=share(), own=i % 2 == 0))],
        "probes": [table(dict(question=names("q"), accuracy=share(), null=0.2, null_high=0.3))],
        "encoder_recovery": [
            table(
                dict(
                    texts=names("originals", "random"), tokens=8 * (1 + i // 2), k=1, recovered=share(), low=share(),
                    high=share(), net=share(),
                )
            )
        ],
        "gap_units": [
            table(dict(unit=names("tokens", "bits"), search=9.0, encoder=1.0, ratio=1 + share(), low=1.0, high=3.0))
        ],
        "searches_from": [
            table(dict(name=names("without a vector"), bits=share())),
            table(dict(arm=names("cold", "own"), step=i, bits=share(), exact=i == len(i) - 1)),
        ],
        "steps_saved": [
            table(
                dict(
                    arm=names("own", "another"), tokens=16 + i // 2, texts="all", saved=share() - 0.5, low=share() - 1,
                    high=share(), passages=12,
                )
            )
        ],
        "what_breaks_first": [
            table(
                dict(
                    model=names("full model", "m"), kind=names("full", "pruned"), more_bits=share(),
                    perplexity_share=share(), transfer_exact=share(), search_exact=share(), held_share=share(),
                )
            )
        ],
        "what_is_left": [
            table(
                dict(
                    model=names("full model", "m"), kind=names("full", "pruned"), more_bits=share(),
                    perplexity_share=share(), transfer_exact=share(), search_exact=share(), held_share=share(),
                )
            )
        ],
        "uses": [
            table(
                dict(
                    item=names("name", "thing"), position="", condition=names("vector", "text"), k=i % 3, value=share(),
                    low=share() - 1, high=share() + 1,
                )
            ),
            dict(x_title="place"),
        ],
        "harm_along": [
            table(
                dict(
                    condition=names("vector", "text"), k=1, first=1 + i // 2, last=1 + i, value=share(),
                    low=share() - 1, high=share() + 1,
                )
            )
        ],
        "harm_left": [
            table(
                dict(mode=names("until", "only"), layer=i // 2, value=share(), low=share() - 1, high=share() + 1)
            )
        ],
        "by_layer": [
            table(dict(name=names("a", "b"), layer=i // 2, value=share(), low=share() - 1, high=share() + 1)),
            dict(y_title="share"),
        ],
        "words_instead": [
            table(
                dict(passage=names("p"), nearest=names("w"), tokens=8, right=8, right_snapped=i % 8, right_scaled=i % 8)
            )
        ],
        "training_paths": [
            table(dict(x=share(), y=share())),
            table(dict(run=names("r"), step=i, x=share(), y=share(), kind=names("prose"), passage=names("p"))),
        ],
        "vector_map": [
            table(
                dict(
                    i=i, x=share(), y=share(), kind=names("k", "l"), passage=names("p"), text="a text", tokens=8,
                    seed=i, near=[[0, 1]] * n,
                )
            ),
            dict(chosen=0, labelled=True, drag="select"),
        ],
    }  # fmt: skip


CHARTS = sorted(tables(1))


def chart_of(name, arguments):
    given = [value for value in arguments if not isinstance(value, dict)]
    options = {key: value for each in arguments if isinstance(each, dict) for key, value in each.items()}
    return getattr(charts, name)(*given, **options)


def drawn(name, arguments):
    """A chart's notebook output: its data and metadata by MIME type."""
    charts.use_offline_renderer()
    return chart_of(name, arguments).properties(title="A title")._repr_mimebundle_()


def size_of(data):
    """Width and height of the PNG picture of a notebook output. Every row of its pixels must be there."""
    png = base64.b64decode(data["image/png"])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    assert (depth, colour) == (8, 6)  # four bytes per pixel
    at, kinds, pixels = 8, [], b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body, (crc,) = png[at + 8 : at + 8 + length], struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        kinds.append(kind)
        pixels += body if kind == b"IDAT" else b""
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    assert len(zlib.decompress(pixels)) == height * (1 + 4 * width)
    return width, height


def test_every_chart_is_listed_in_these_tests():
    helpers = {"mimebundle", "save", "show", "theme", "to_image", "to_svg", "use_offline_renderer"}
    assert set(CHARTS) == set(charts.__all__) - helpers


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.slow
def test_every_output_has_vega_lite_5_and_a_picture(rows):
    for name, arguments in tables(rows).items():
        data, metadata = drawn(name, arguments)
        assert data["application/vnd.vegalite.v5+json"]["$schema"].endswith("v5.json"), name
        assert data["text/plain"] == "<chart: A title>"
        width, height = size_of(data)
        assert metadata["image/png"] == {"width": width // 2, "height": height // 2, "alt": "A title"}
        assert 100 < width // 2 < 1000, name
        assert 60 < height // 2 < 1200, name
        assert len(data["image/png"]) < 600_000, name


def test_the_picture_is_opaque_white_at_its_corner():
    png = base64.b64decode(drawn("spectrum", tables(9)["spectrum"])[0]["image/png"])
    at = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[at - 4 : at])
    first_row = zlib.decompress(png[at + 4 : at + 4 + length])
    assert first_row[1:5] == b"\xff\xff\xff\xff"


def test_without_vl_convert_the_output_has_the_title_and_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    data, metadata = drawn("spectrum", tables(9)["spectrum"])
    assert set(data) == {"application/vnd.vegalite.v5+json", "text/plain"}
    assert "image/png" not in metadata


def test_a_chart_whose_data_are_on_another_machine_is_not_fetched():
    charts.use_offline_renderer()
    chart = alt.Chart("http://127.0.0.1:9/table.csv").mark_point().encode(alt.X("a:Q"))
    data, _ = chart._repr_mimebundle_()
    assert "image/png" not in data
    assert "application/vnd.vegalite.v5+json" in data


@pytest.mark.parametrize("name", CHARTS)
def test_without_rows_a_chart_says_so(name):
    data, _ = drawn(name, tables(0)[name])
    assert "no data" in json.dumps(data["application/vnd.vegalite.v5+json"])
    assert "image/png" in data


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0])
@pytest.mark.slow
def test_numbers_that_cannot_be_drawn_raise_nothing(bad):
    def spoiled(value):
        if isinstance(value, np.ndarray):
            return np.full(value.shape, bad)
        if isinstance(value, pd.DataFrame):
            return value.assign(**dict.fromkeys(value.select_dtypes("float"), bad))
        return value

    for name, arguments in tables(9).items():
        data, _ = drawn(name, [spoiled(value) for value in arguments])
        json.dumps(data["application/vnd.vegalite.v5+json"], allow_nan=False)
        assert "image/png" in data, name


@pytest.mark.slow
def test_long_labels_are_cut():
    for name, arguments in tables(9, LONG).items():
        width, _ = size_of(drawn(name, arguments)[0])
        assert width // 2 < 1200, name


@pytest.mark.slow
def test_no_chart_has_too_many_rows():
    """Altair refuses tables of more than 5,000 rows, also in ``to_dict``."""
    before = alt.data_transformers.active, alt.data_transformers.options
    drawings = {name: chart_of(name, arguments) for name, arguments in tables(6000).items()}
    sizes = {name: len(json.dumps(chart.to_dict())) for name, chart in drawings.items()}
    assert max(sizes.values()) < 1_100_000, sizes
    both = (drawings["scatter"] | drawings["vector_map"]).to_dict()
    assert len(both["datasets"]) == 3  # the points of each, and the words at the islands of the map
    assert (alt.data_transformers.active, alt.data_transformers.options) == before
    with pytest.raises(alt.MaxRowsError):  # a user's own chart has the limit that Altair gives it
        alt.Chart(pd.DataFrame({"a": range(6000)})).mark_point().encode(alt.X("a:Q")).to_dict()


@pytest.mark.parametrize(("rows", "limit"), [(6000, 120_000), (100_000, 120_000)])
def test_a_long_curve_is_thinned_and_says_so(rows, limit):
    steps = np.arange(rows)
    loss = 9.0 * np.exp(-steps / rows)
    loss[rows // 3] = 50.0  # one peak
    loss[rows // 2] = np.nan  # one gap
    trace = pd.DataFrame({"step": steps, "loss": loss, "accuracy": steps / rows})
    specification = charts.training_curve(trace).to_dict()
    (values,) = specification["datasets"].values()
    assert len(json.dumps(specification)) < limit
    kept = pd.DataFrame(values)
    assert kept.step.is_monotonic_increasing
    assert (kept.step.iloc[0], kept.step.iloc[-1]) == (0, rows - 1)
    assert kept.loss.max() == 50.0
    assert kept.loss.isna().sum() == 1
    notes = [chart["title"]["subtitle"] for chart in specification["hconcat"]]
    assert notes == [f"{len(kept):,} of {rows:,} steps are drawn, among them all peaks"] * 2
    short = charts.training_curve(trace[:600]).to_dict()
    assert "subtitle" not in short["hconcat"][0]["title"]


def test_thinned_rows_have_the_extremes_of_every_pixel():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": np.sort(rng.random(5000)), "a": rng.normal(size=5000), "b": rng.normal(size=5000)})
    kept = thin(table, "x", "a", "b", pixels=50)
    assert len(kept) <= 4 * 50 + 2
    pixel = ((table.x - table.x.min()) / (table.x.max() - table.x.min()) * 49).astype(int)
    for column in ("a", "b"):
        for extreme in ("min", "max"):
            whole = table[column].groupby(pixel).agg(extreme)
            left = kept[column].groupby(pixel[kept.index]).agg(extreme)
            pd.testing.assert_series_equal(whole, left)
    assert thin(table[:200], "x", "a", pixels=50).equals(table[:200])


@pytest.mark.parametrize("n", [72, 384])
def test_a_large_matrix_is_compact_and_correct(n):
    rng = np.random.default_rng(0)
    matrix = rng.random((n, n)).round(3)
    specification = charts.distance_matrix(matrix, [f"text-{i:03}" for i in range(n)]).to_dict()
    assert len(json.dumps(specification)) < 160_000
    rows, names = sorted(specification["datasets"].values(), key=lambda values: "cosine" not in values[0])
    cells = np.array([row["cosine"] for row in rows], float)
    size = 1 if n <= 128 else n // 128
    apart = np.where(np.eye(n), np.nan, matrix)
    blocks = apart.reshape(n // size, size, n // size, size)
    np.testing.assert_allclose(cells, np.nanmean(blocks, axis=(1, 3)) if size > 1 else apart, atol=6e-4)
    legend = specification["encoding"]["color"]["title"]
    assert legend == ("cosine" if size == 1 else ["cosine, mean", f"of {size} × {size} pairs"])
    last = f"text-{n - size:03} … text-{n - 1:03}" if size > 1 else f"text-{n - 1:03}"
    assert names[-1]["other"] == rows[-1]["one"] == last


def test_a_matrix_names_both_vectors_of_each_cell():
    marks = spoken_labels(charts.distance_matrix(np.array([[1, 0.25, 0.5], [0.25, 1, 0], [0.5, 0, 1]]), list("abc")))
    cells = [m for m in marks if "other: " in m]
    assert len(cells) == 6  # not the diagonal
    assert sum("one: a" in m and "other: b" in m and "cosine: 0.25" in m for m in cells) == 1
    assert sum("one: c" in m and "other: a" in m and "cosine: 0.5" in m for m in cells) == 1


def test_a_large_map_leaves_out_the_texts_and_stays_small():
    n = 20_000
    table = tables(n)["vector_map"][0].assign(text="a text of sixty characters, which the tooltip shows if it can")
    data, _ = drawn("vector_map", [table])
    assert sum(len(json.dumps(part)) for part in data.values()) < 3_000_000
    (values,) = data["application/vnd.vegalite.v5+json"]["datasets"].values()
    assert len(values) == n
    assert "text" not in values[0]
    few, _ = drawn("vector_map", [table[:10]])
    assert "text" in next(iter(few["application/vnd.vegalite.v5+json"]["datasets"].values()))[0]


def test_a_long_text_is_drawn_in_groups_of_tokens():
    table = pd.DataFrame({"position": range(1, 301), "token": "x", "before": np.arange(300.0), "after": 0.0})
    specification = charts.token_bits(table).to_dict()
    (values,) = specification["datasets"].values()
    assert [row["before"] for row in values] == np.arange(300.0).reshape(100, 3).mean(1).tolist()
    assert [row["position"] for row in values] == list(range(1, 301, 3))
    assert {row["token"] for row in values} == {"xxx"}
    assert {layer["encoding"]["y"].get("title") for layer in specification["layer"]} == {"bits, means of 3"}


def test_an_image_of_an_svg_chart_is_png():
    image = charts.to_image(charts.to_svg(charts.spectrum([0.5, 0.25])))
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', image)
    width, _ = size_of({"image/png": data})
    assert f'width="{width // 2}' in image


@pytest.mark.slow
def test_html_export_shows_the_picture_of_a_chart_and_the_contents_of_a_panel(tmp_path):
    code = """import numpy as np
from memlab import charts, load, panels
charts.use_offline_renderer()
charts.distance_matrix(np.eye(5), list("abcde"))
---
panel = panels.cram_panel(load("toy:gemma3"))
panel.tokens.value, panel.k.value = 8, 4
panel.start.click()
_ = panel.wait()
---
panel"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in code.split("---\n")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "own.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", "own.ipynb"]
    keep_no_state = "--ExecutePreprocessor.store_widget_state=False"  # as in a notebook that JupyterLab saved
    subprocess.run([*command, keep_no_state], cwd=tmp_path, check=True, capture_output=True, timeout=240)
    page = (tmp_path / "own.html").read_text(encoding="utf-8")
    assert "&lt;chart" not in page
    assert page.count('src="data:image/png;base64,') == 2  # the matrix, and the curve of the panel
    assert "Done: " in page  # the panel's status
    assert page.count('<span class="memlab-token memlab-token-right"') == 8  # its text
