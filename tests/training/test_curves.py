import io

from PIL import Image

from training import curves


def history(epochs, **changes):
    row = {
        "train": {"loss": 1.0, "accuracy": 0.5},
        "valid": {"loss": 1.2, "accuracy": 0.4},
        "learning_rate": [0.0, 0.1],
    }
    return {"epochs": [row | {"epoch": i + 1} | changes for i in range(epochs)], "steps": [], "stop": None}


def test_a_picture_with_a_panel_per_metric():
    png = curves.plot_history(history(3), "experiments/$x_1")
    with Image.open(io.BytesIO(png)) as image:
        assert image.size[0] > 1000
    assert png == curves.plot_history(history(3), "experiments/$x_1")
    assert png != curves.plot_history(history(4), "experiments/$x_1")


def test_values_that_are_missing_are_left_out():
    assert curves.plot_history(history(2, valid={"loss": None, "accuracy": 0.1}), "x")
    assert curves.plot_history(history(0), "x")


def test_nothing_is_shown_without_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    drawn = []
    monkeypatch.setattr(curves, "draw_history", lambda *a: drawn.append(a))
    curves.show_history(history(1), "x")
    assert not drawn


def test_a_picture_takes_its_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(curves.time, "monotonic", lambda: now[0])
    sparing = curves.Sparing(0.1)
    for seconds in (100.0, 1.0):  # the first time imports
        assert sparing.due()
        with sparing:
            now[0] += seconds
    assert not sparing.due()
    now[0] += 9.9
    assert not sparing.due()
    now[0] += 0.2
    assert sparing.due()
