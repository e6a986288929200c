# ruff: noqa: E501 (rows of tables)
"""Published numbers that reports print beside ours, each with where it was read.

Grades: A, the authors' own paper, README or project page; B, a copy of their table elsewhere; C, a
summary of it; L, computed from published estimate files. Settings (image size, retrieval, RANSAC,
which truth) move these numbers by points: compare rows of one table only, and with the source open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MAST3R = "arXiv 2406.09756"
_SPEEDY = "arXiv 2503.10017"
_STDLOC = "STDLoc paper"
_HLOC = "hloc README, commit c13273b"
_PGT = "visloc_pseudo_gt_limitations, estimates"
_GLUE = "glue-factory README"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method: its cells in the order of the table's columns ("" where not read)."""

    method: str
    cells: tuple[str, ...]
    source: str
    grade: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """The rows of one benchmark.

    Attributes:
        columns: What the cells are.
        rows: The methods.
        notes: What to know before comparing.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def _table(columns: Sequence[str], lines: str, *notes: str) -> Published:
    """Rows from ``method | cell | ... | grade source`` lines."""
    rows = []
    for line in lines.strip().splitlines():
        method, *cells, source = (part.strip() for part in line.split("|"))
        if len(cells) != len(columns):
            raise ValueError(f"{len(columns)} cells expected: {line}")
        grade, _, where = source.partition(" ")
        rows.append(Row(method=method, cells=tuple(cells), source=where, grade=grade))
    return Published(columns=tuple(columns), rows=tuple(rows), notes=notes)


_MAPFREE_COLUMNS = (
    "median px", "VCRE < 90 px %", "VCRE AUC", "median m", "median deg", "pose %", "pose AUC",
)  # fmt: skip
_DAY_NIGHT = ("day", "night")
_AACHEN_NOTE = "percent within (0.25 m, 2 deg) / (0.5 m, 5 deg) / (5 m, 10 deg)"
_SEVEN = (
    "chess",
    "fire",
    "heads",
    "office",
    "pumpkin",
    "redkitchen",
    "stairs",
    "mean",
    "5 cm 5 deg",
)
_FIVE = ("GreatCourt", "KingsCollege", "OldHospital", "ShopFacade", "StMarysChurch", "mean")
_AUC = ("AUC at 5/10/20 deg",)

PUBLISHED: Mapping[str, Published] = {
    "mapfree-val": _table(
        _MAPFREE_COLUMNS,
        f"""
        DUSt3R, 3D match, DPT depth | 125.8 | 45.2 | 0.704 | 1.10 | 9.4 | 17.0 | 0.344 | A {_MAST3R}
        MASt3R, 3D match, DPT depth | 112.0 | 49.9 | 0.732 | 0.94 | 3.6 | 21.5 | 0.409 | A {_MAST3R}
        MASt3R, features, DPT depth | 112.9 | 51.5 | 0.752 | 0.93 | 3.0 | 23.2 | 0.435 | A {_MAST3R}
        MASt3R, features, own depth | 57.2 | 75.9 | 0.934 | 0.46 | 3.0 | 51.7 | 0.746 | A {_MAST3R}
        VGGT | 48.8 | 78.9 | 0.789 | 0.36 | 3.6 | 57.7 | 0.577 | B arXiv 2507.16290
        Dens3R | 30.4 | 82.1 | 0.944 | 0.24 | 3.4 | 65.5 | 0.852 | A arXiv 2507.16290
        """,
    ),
    "mapfree-test": _table(
        _MAPFREE_COLUMNS,
        f"""
        RPR | 147.1 | 40.2 | 0.402 | 1.68 | 22.5 | 6.0 | 0.060 | B {_MAST3R}
        SIFT, DPT depth | 222.8 | 25.0 | 0.504 | 2.93 | 61.4 | 10.3 | 0.252 | B {_MAST3R}
        SuperPoint+SuperGlue, DPT depth | 160.3 | 36.1 | 0.602 | 1.88 | 25.4 | 16.8 | 0.346 | B {_MAST3R}
        LoFTR, KBR depth | 165.0 | 34.3 | 0.634 | 2.23 | 37.8 | 11.0 | 0.295 | B {_MAST3R}
        DUSt3R, DPT depth | 116.0 | 50.3 | 0.697 | 0.97 | 7.1 | 21.6 | 0.394 | A {_MAST3R}
        MASt3R, DPT depth | 104.0 | 54.2 | 0.726 | 0.80 | 2.2 | 27.0 | 0.456 | A {_MAST3R}
        MASt3R, own depth | 48.7 | 79.3 | 0.933 | 0.36 | 2.2 | 54.7 | 0.740 | A {_MAST3R}
        MASt3R, direct pose | 53.2 | 79.1 | 0.941 | 0.42 | 3.1 | 53.0 | 0.777 | A {_MAST3R}
        """,
        "the truth of the test split is on the server only",
    ),
    "aachen-v1.1": _table(
        _DAY_NIGHT,
        f"""
        Kapture + R2D2 | 91.3/97.0/99.5 | 78.5/91.6/100 | B {_MAST3R}
        SuperPoint+SuperGlue | 89.8/96.1/99.4 | 77.0/90.6/100 | B {_MAST3R}
        SuperPoint+LightGlue | 90.2/96.0/99.4 | 77.0/91.1/100 | B {_MAST3R}
        LoFTR | 88.7/95.6/99.0 | 78.5/90.6/99.0 | B {_MAST3R}
        Efficient LoFTR | 89.6/96.2/99.0 | 77.0/91.1/99.5 | A Efficient LoFTR paper
        DKM | 84.8/92.7/97.1 | 70.2/90.1/97.4 | C summary
        DUSt3R top 20 | 79.4/94.3/99.5 | 74.9/91.1/99.0 | A {_MAST3R}
        MASt3R top 1 | 79.6/93.5/98.7 | 70.2/88.0/97.4 | A {_MAST3R}
        MASt3R top 20 | 83.4/95.3/99.4 | 76.4/91.6/100 | A {_MAST3R}
        MASt3R top 40 | 82.2/93.9/99.5 | 75.4/91.6/100 | A {_MAST3R}
        """,
        _AACHEN_NOTE,
        "191 night queries; never beside v1.0, which has 98",
    ),
    "aachen-v1.0": _table(
        _DAY_NIGHT,
        f"""
        hloc SuperPoint+SuperGlue, NetVLAD 50 | 89.6/95.4/98.8 | 86.7/93.9/100 | A {_HLOC}
        hloc SuperPoint+NN | 85.4/93.3/97.2 | 75.5/86.7/92.9 | A {_HLOC}
        MASt3R top 20 | 88.2/95.1/99.6 | 72.4/93.9/99.0 | A {_SPEEDY}
        MASt3R top 40 | 89.2/95.4/99.8 | 75.5/91.8/100 | A {_SPEEDY}
        """,
        _AACHEN_NOTE,
        "98 night queries; the version of the MASt3R rows is inferred from their steps of 1/98",
    ),
    "inloc": _table(
        ("DUC1", "DUC2"),
        f"""
        Kapture + R2D2 | 41.4/60.1/73.7 | 47.3/67.2/73.3 | B {_MAST3R}
        hloc SuperPoint+SuperGlue, 40 retrieved | 46.5/65.7/78.3 | 52.7/72.5/79.4 | A {_HLOC}
        hloc SuperPoint+SuperGlue, temporal pairs | 49.0/68.7/80.8 | 53.4/77.1/82.4 | A {_HLOC}
        SuperPoint+LightGlue | 49.0/68.2/79.3 | 55.0/74.8/79.4 | B {_MAST3R}
        LoFTR | 47.5/72.2/84.8 | 54.2/74.8/85.5 | B {_MAST3R}
        Efficient LoFTR | 52.0/74.7/86.9 | 58.0/80.9/89.3 | A Efficient LoFTR paper
        DKM | 51.5/75.3/86.9 | 63.4/82.4/87.8 | B {_MAST3R}
        RoMa | 60.6/79.3/89.9 | 66.4/83.2/87.8 | C summary
        LoMa-L | 59.1/80.8/91.9 | 71.0/84.0/87.8 | A LoMa project page
        MASt3R top 20 | 55.1/77.8/90.4 | 71.0/84.7/89.3 | A {_MAST3R}
        MASt3R top 40 | 56.1/79.3/90.9 | 71.0/87.0/91.6 | A {_MAST3R}
        MASt3R top 40 | 63.6/84.3/93.4 | 72.5/91.6/92.4 | A {_SPEEDY}
        """,
        "percent within 0.25 / 0.5 / 1 m, all 10 deg",
        "two runs of one MASt3R differ by 7 points on DUC1: settings matter as much as the model",
    ),
    "7scenes-dslam": _table(
        _SEVEN,
        f"""
        Active Search | 3/0.87 | 2/1.01 | 1/0.82 | 4/1.15 | 7/1.69 | 5/1.72 | 4/1.01 | 3.68/1.18 | 68.8 | A {_HLOC}; mean L {_PGT}
        DSAC* | 2/1.10 | 2/1.24 | 1/1.82 | 3/1.15 | 4/1.34 | 4/1.68 | 3/1.16 | 2.65/0.86 | 82.9 | B {_HLOC}; mean L {_PGT}
        hloc SuperPoint+SuperGlue | 2.40/0.77 | 1.81/0.75 | 0.93/0.59 | 2.61/0.77 | 4.44/1.15 | 4.03/1.38 | 5.05/1.46 | 3.04/0.98 | 76.7 | L {_PGT}
        hloc SuperPoint+SuperGlue, rendered depth | 2/0.80 | 2/0.77 | 1/0.79 | 3/0.80 | 4/1.07 | 3/1.13 | 4/1.15 | | | A {_HLOC}
        DVLAD + R2D2 | 2.56/0.88 | 2.21/0.86 | 0.98/0.75 | 3.48/1.00 | 4.79/1.28 | 4.21/1.44 | 4.60/1.27 | 2.96/0.98 | 77.6 | B {_STDLOC}; mean L {_PGT}
        DUSt3R-512 | 3/0.97 | 3/0.95 | 2/1.37 | 3/1.01 | 4/1.14 | 4/1.34 | 11/2.84 | | | B survey
        MASt3R top 1 | 2.33/0.79 | 2.16/0.80 | 1.20/0.82 | 3.10/0.92 | 4.10/1.07 | 3.71/1.28 | 3.46/0.95 | | | A {_SPEEDY}
        """,
        "median cm / deg; the mean is over the scenes",
    ),
    "7scenes-sfm": _table(
        _SEVEN,
        f"""
        hloc SuperPoint+SuperGlue | | | | | | | 2.89/0.80 | 1.27/0.27 | 95.7 | L {_PGT}
        DVLAD + R2D2 | | | | | | | | 0.75/0.24 | 95.7 | L {_PGT}
        Active Search | | | | | | | | 0.73/0.24 | 98.5 | L {_PGT}
        DSAC* | 0.50/0.17 | 0.78/0.29 | 0.50/0.34 | 1.19/0.35 | 1.19/0.29 | 0.72/0.21 | 2.65/0.78 | 1.07/0.35 | 97.8 | B {_STDLOC}
        ACE | 0.55/0.18 | 0.83/0.33 | 0.53/0.33 | 1.05/0.29 | 1.06/0.22 | 0.77/0.21 | 2.89/0.81 | 1.10/0.34 | 97.1 | B {_STDLOC}
        GLACE | 0.6/0.2 | 0.9/0.3 | 0.5/0.3 | 1.1/0.3 | 0.9/0.2 | 0.8/0.2 | 3.2/0.9 | 1.2/0.3 | | B copy
        STDLoc | 0.46/0.15 | 0.57/0.24 | 0.45/0.26 | 0.86/0.24 | 0.93/0.21 | 0.63/0.19 | 1.42/0.41 | 0.76/0.24 | 99.1 | A {_STDLOC}
        """,
        "median cm / deg; the mean is over the scenes",
        "some papers print rows of the other truth in this column",
    ),
    "12scenes-dslam": _table(
        ("mean of medians", "5 cm 5 deg"),
        f"""
        hloc SuperPoint+SuperGlue | 0.92/0.40 | 99.8 | L {_PGT}
        DSAC* | 1.02/0.44 | 99.2 | L {_PGT}
        """,
        "median cm / deg, mean over the 12 scenes",
    ),
    "12scenes-sfm": _table(
        ("mean of medians", "5 cm 5 deg"),
        f"""
        hloc SuperPoint+SuperGlue | 0.20/0.09 | 100 | L {_PGT}
        DSAC* | 0.55/0.25 | 99.8 | L {_PGT}
        """,
        "median cm / deg, mean over the 12 scenes",
    ),
    "cambridge": _table(
        _FIVE,
        f"""
        Active Search | 24/0.13 | 13/0.22 | 20/0.36 | 4/0.21 | 8/0.25 | 13.8/0.23 | A {_HLOC}; mean B {_STDLOC}
        DSAC* | 33.0/0.21 | 17.9/0.31 | 21.1/0.40 | 5.2/0.24 | 15.4/0.51 | 18.5/0.33 | B {_STDLOC}
        hloc SuperPoint+SuperGlue | 17.7/0.11 | 11.0/0.20 | 15.1/0.31 | 4.2/0.20 | 7.0/0.22 | 11.0/0.21 | B {_STDLOC}
        hloc SuperPoint+SuperGlue | 10.1/0.07 | 6.9/0.11 | 12.5/0.24 | 2.9/0.14 | 3.8/0.12 | | A XRLocalization README
        XRLocalization | | | | | | 6.4/0.13 | A XRLocalization README
        ACE (4 networks) | 27.9/0.14 | 18.6/0.33 | 25.7/0.51 | 5.1/0.26 | 9.5/0.33 | 17.4/0.31 | B {_STDLOC}
        STDLoc | 15.7/0.06 | 15.0/0.17 | 11.9/0.21 | 3.0/0.13 | 4.7/0.14 | 10.1/0.14 | A {_STDLOC}
        DUSt3R-512 | 38/0.16 | 11/0.20 | 17/0.33 | 6/0.26 | 7/0.24 | | B survey
        Reloc3r-512 | 122/0.73 | 42/0.36 | 62/0.55 | 13/0.58 | 34/0.58 | 55/0.56 | B copy
        """,
        "median cm / deg; the mean is over the five scenes, some papers leave out Great Court",
    ),
    "cmu": _table(
        ("urban", "suburban", "park"),
        """
        MegaLoc top 5 + ALIKED+LightGlue | 94.1/97.3/99.3 | 95.6/98.0/99.8 | 86.2/90.8/97.4 | C third-party run, 2026
        """,
        _AACHEN_NOTE,
        "of all queries, by the server; the poses that are public are of a part of them",
    ),
    "robotcar-v2": _table(
        _DAY_NIGHT,
        """
        MegaLoc top 5 + ALIKED+LightGlue | 65.0/95.0/100 | 48.0/87.6/98.8 | C third-party run, 2026
        """,
        _AACHEN_NOTE,
        "by the server, whose day and night each pool several of the nine conditions",
    ),
    "megadepth1500": _table(
        _AUC,
        f"""
        SuperPoint+SuperGlue, OpenCV | 48.7/65.6/79.0 | A {_GLUE}
        SuperPoint+SuperGlue, PoseLib | 64.8/77.9/87.0 | A {_GLUE}
        SuperPoint+LightGlue, OpenCV | 51.0/68.1/80.7 | A {_GLUE}
        SuperPoint+LightGlue, PoseLib | 66.8/79.3/87.9 | A {_GLUE}
        ALIKED+LightGlue, PoseLib | 66.4/79.0/87.5 | A {_GLUE}
        LoFTR | 52.8/69.2/81.2 | B Dens3R paper
        DKM | 60.4/74.9/85.1 | C summary
        RoMa | 62.6/76.7/86.3 | C summary
        RoMa v2 | 62.8/76.8/86.5 | A RoMa v2 README
        MASt3R | 73.3/84.1/90.9 | B Dens3R paper
        MASt3R | 39.87/54.93/66.88 | A {_SPEEDY}
        """,
        "scores move by points with the estimator and its threshold: compare inside one protocol",
    ),
    "scannet1500": _table(
        _AUC,
        f"""
        SuperGlue | 16.12/33.76/51.79 | A SuperGlue README
        SuperPoint+SuperGlue, OpenCV | 17.9/35.4/49.5 | A {_GLUE}
        SuperPoint+SuperGlue, PoseLib | 22.7/39.5/54.3 | A {_GLUE}
        SuperPoint+LightGlue, PoseLib | 21.9/39.8/55.7 | A {_GLUE}
        DKM | 29.4/50.7/68.3 | C summary
        RoMa | 31.8/53.4/70.9 | C summary
        RoMa v2 | 34.0/56.5/73.9 | A RoMa v2 README
        Reloc3r-512 | 34.79/58.37/75.56 | B copy
        MASt3R | 34.51/57.31/74.5 | A {_SPEEDY}
        MASt3R | 28.01/50.24/68.83 | B copy of Reloc3r's tables
        """,
        "scores move by points with the estimator and its threshold: compare inside one protocol",
    ),
}  # fmt: skip
