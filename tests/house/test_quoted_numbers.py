"""Every number in the text of the README and the manual follows from a stored result.

Each claim is a piece of text with its numbers put in from the results; the page must contain it, and no other measured
number.  Where results change, a failing test shows the sentence as it is to be.
"""

import re

import pytest

from tests.house import claims_committee, claims_networks
from tests.house.pages import PAGES, prose

CLAIMS = claims_committee.CLAIMS + claims_networks.CLAIMS


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_page_says_what_was_measured(claim):
    for page, pieces in claim().items():
        for piece in pieces:
            assert piece in prose(page)


# --- and nothing else ---------------------------------------------------------------------------

NOT_MEASURED = (
    r"`[^`]*`|\$[^$]*\$",  # code and formulas
    r"\]\([^)]*\)",
    r"Python 3\.10|version 0\.1|[Aa]ppendix [A-C]\.\d|\b[B]\.1\b",
    r"(Φ|δE)\((0\.\d+)\)|[dpΔ] = [\d.]+",  # arguments
    r"95 %",  # confidence
    r"±1\b|Apache-2\.0",
    r"−0\.01|α = 0\.75",  # of the paper
)


@pytest.mark.parametrize("page", [name for name in PAGES if not name.startswith("docs/api")])
def test_no_number_without_a_result(page):
    text = prose(page)
    for claim in CLAIMS:
        for piece in claim().get(page, []):
            text = text.replace(piece, "")
    for known in NOT_MEASURED:
        text = re.sub(known, "", text)
    assert not re.findall(r".{0,40}(?:\d\.\d|±|\d ?%).{0,10}", text)
