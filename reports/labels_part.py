"""Images whose label is suspect, as a part of the report."""

import numpy as np

from reports.gallery import gallery, links
from reports.label_errors import Suspects, label_errors_csv, pairs, pairs_csv, suspects
from reports.page import Html, Section, details, join, paragraph, short, table
from reports.sheets import sheet
from reports.subject import Subject

MOST_PAIRS = 50  # in the table; the CSV file has them all


def section(subject: Subject) -> Section:
    """The part of the report."""
    if subject.multi_label:
        return _without("Confident learning is for one class per image; this data has several.")
    if not np.isfinite(subject.logits).all():
        return _without("Some logits are not finite: no label can be doubted.")
    found = suspects(subject.probabilities, subject.labels)
    files = {
        "label_errors.csv": label_errors_csv(found, subject.paths, subject.probabilities, subject.classes),
        "label_error_pairs.csv": pairs_csv(found, subject.classes),
    }
    count = len(found.images)
    if not count:
        text = f"No label of these {len(subject.labels):,} images is suspect."
        return Section("labels", "Suspected label errors", paragraph(text), files)
    lead = (
        f"{count:,} of {len(subject.labels):,} images likely belong to another class than their folder says, or are "
        "hard for this net: look at them before you believe it. Confident learning (arXiv 1911.00068) compares each "
        "label with the probabilities of a net that was not trained on the image; the most suspect come first."
    )
    warning = "" if subject.same_data else (
        " Train or valid are not the files of the training: images that the net was trained on seem right whatever "
        "their label."
    )  # fmt: skip
    shown = gallery(subject)
    first = found.images[: subject.options.top_k].tolist()
    cards = sheet(subject, first, "label", lambda index: links(subject, shown, index, "label"))
    return Section(
        "labels", "Suspected label errors", join(paragraph(lead + warning), _pairs(subject, found), cards), files
    )


def _pairs(subject: Subject, found: Suspects) -> Html:
    rows = [(short(subject.classes[a]), short(subject.classes[b]), count) for a, b, count in pairs(found)]
    title = "Suspected label errors by pair of classes"
    return details(title, table(["label", "suggested", "images"], rows[:MOST_PAIRS], label=title))


def _without(reason: str) -> Section:
    return Section("labels", "Suspected label errors", paragraph(reason))
