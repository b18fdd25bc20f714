"""The report's colours, light and dark. Two accents, blue and orange, which stay apart under every common colour blindness."""

from typing import Final

LIGHT: Final = {
    "paper": "#fcfbf8",
    "raised": "#f4f2ec",
    "ink": "#1b2026",
    "muted": "#59616a",
    "line": "#dcd8cf",
    "accent": "#1d5fa6",
    "second": "#ab4f09",
    "grey": "#848b92",
    "accent-soft": "rgba(29,95,166,0.17)",
    "second-soft": "rgba(171,79,9,0.15)",
    "accent-fill": "rgba(29,95,166,0.60)",
    "second-fill": "rgba(171,79,9,0.60)",
    "grey-soft": "rgba(132,139,146,0.16)",
}
DARK: Final = {
    "paper": "#14171b",
    "raised": "#1d2126",
    "ink": "#e9e6df",
    "muted": "#a5adb5",
    "line": "#363c43",
    "accent": "#84b8f2",
    "second": "#f0a562",
    "grey": "#7f8890",
    "accent-soft": "rgba(132,184,242,0.20)",
    "second-soft": "rgba(240,165,98,0.18)",
    "accent-fill": "rgba(132,184,242,0.60)",
    "second-fill": "rgba(240,165,98,0.60)",
    "grey-soft": "rgba(127,136,144,0.20)",
}


def light_to_dark() -> dict[str, str]:
    """Each light colour and the dark one that takes its place; figures are made in light colours and mapped in the page."""
    return {LIGHT[name]: DARK[name] for name in LIGHT}
