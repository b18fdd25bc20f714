"""All that a recipe can name: an explicit tuple of rows. METHODS.md, `limbeck list` and the contract tests come from it.

A row holds the dotted path of its class as text, resolved on use and from this table only, so that `limbeck list` starts
without torch. Other packages add rows through the entry point group `limbeck.methods`. One file, longer than most, since it is
one table.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Literal, get_args

from limbeck.core.errors import UsageError
from limbeck.core.installed import offered

GROUP = "limbeck.methods"
"""Entry points of this group give a sequence of rows each."""
OWN = "limbeck"

Kind = Literal[
    "terms",
    "weightings",
    "solvers",
    "balancers",
    "mixtures",
    "teachers",
    "steps",
    "averages",
    "data",
    "texts",
    "rewards",
    "transforms",
    "models",
    "adapters",
    "optimizers",
    "schedules",
]
Status = Literal["stable", "experimental"]

WORDS: Mapping[Kind, str] = {
    "terms": "term",
    "weightings": "weighting",
    "solvers": "solver",
    "balancers": "balancer",
    "mixtures": "mixture of domains",
    "teachers": "teacher",
    "steps": "step",
    "averages": "average of weights",
    "data": "data reader",
    "texts": "text column",
    "rewards": "reward",
    "transforms": "transform",
    "models": "model",
    "adapters": "adapter",
    "optimizers": "optimizer",
    "schedules": "schedule",
}
"""One of each kind, in words."""

METHODS: tuple[Kind, ...] = ("terms", "weightings", "solvers", "balancers", "mixtures", "teachers", "steps", "averages")
"""The kinds that are methods; the others are what methods are applied to."""


@dataclass(frozen=True)
class Row:
    """One name that a recipe may use.

    Args:
        name: What is typed.
        kind: Where it may stand.
        path: "module:class".
        summary: What it is, in one line.
        paper: Where it comes from; empty for what is everybody's.
        needs: What must be there for it.
        cost: What it adds to a plain step or run.
        status: "experimental" until the paper's result is reproduced.
        package: Which package it comes from; set when rows are read.
        steps: How many plain steps of distillation one with it takes at most, of two terms and one teacher, where it goes through
            the nets more often than those; `benchmarks/methods.py` holds it to that.
    """

    name: str
    kind: Kind
    path: str
    summary: str
    paper: str = ""
    needs: str = ""
    cost: str = ""
    status: Status = "stable"
    package: str = OWN
    steps: float | None = None

    def resolve(self) -> Callable[..., object]:
        """Import the class (or function) of this row.

        Raises:
            UsageError: Another package's class cannot be imported.
        """
        module, _, name = self.path.partition(":")
        try:
            maker: Callable[..., object] = getattr(import_module(module), name)
        except Exception as error:
            if self.package == OWN:
                raise
            raise UsageError(
                f"{self.name} of the package {self.package} cannot be loaded from {self.path} ({type(error).__name__}: {error}); "
                "mend or remove that package."
            ) from error
        return maker


KD_AIF = "Wu et al., 2025, arXiv:2501.02705"
RESNET = "He et al., 2016, arXiv:1512.03385"
CRD = "as in Tian et al., 2020, arXiv:1910.10699"

ROWS: tuple[Row, ...] = (
    # terms
    Row("CE", "terms", "limbeck.losses.labels.ce:CE", "Cross-entropy with the given labels", "", "labels", "none"),
    Row(
        "KD",
        "terms",
        "limbeck.losses.logits.kd:KD",
        "Softened teacher and student distributions, T^2 KL",
        "Hinton et al., 2015, arXiv:1503.02531",
        "teacher logits",
        "one teacher forward pass",
    ),
    Row(
        "DKD",
        "terms",
        "limbeck.losses.logits.dkd:DKD",
        "Target against the rest and the rest among itself, each with its weight",
        "Zhao et al., 2022, arXiv:2203.08679",
        "teacher logits, labels",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "AEKT",
        "terms",
        "limbeck.losses.logits.aekt:AEKT",
        "After AEKT: DKD with a gain where the student is less sure of the label",
        "Park, Lee, 2024, arXiv:2409.01679",
        "teacher logits, labels",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "DIST",
        "terms",
        "limbeck.losses.logits.dist:DIST",
        "Correlation over the classes and over the batch",
        "Huang et al., 2022, arXiv:2205.10536",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "WSLD",
        "terms",
        "limbeck.losses.logits.wsld:WSLD",
        "KD, less where the student knows the label better than the teacher",
        "Zhou et al., 2021, arXiv:2102.00650",
        "teacher logits, labels",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "MLKD",
        "terms",
        "limbeck.losses.logits.mlkd:MLKD",
        "KD at several temperatures with Gram matrices of the batch and of the classes",
        "Jin et al., 2023, CVPR",
        "teacher logits",
        "one teacher forward pass; B^2 C + C^2 B per temperature",
        "experimental",
    ),
    Row(
        "CTKD",
        "terms",
        "limbeck.losses.logits.ctkd:CTKD",
        "KD at a temperature learnt against the student",
        "Li et al., 2022, arXiv:2211.16231",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "PLD",
        "terms",
        "limbeck.losses.logits.pld:PLD",
        "Likelihood of the teacher's ranking, label first; takes the place of CE",
        "2025, arXiv:2506.12542",
        "teacher logits, labels",
        "one teacher forward pass, a sort over the classes",
        "experimental",
    ),
    Row(
        "Standardised",
        "terms",
        "limbeck.losses.logits.standardised:Standardised",
        "Any term on logits, on standardised logits",
        "Sun et al., 2024, arXiv:2403.01427",
        "teacher logits",
        "that of the inner term",
        "experimental",
    ),
    Row(
        "OFA",
        "terms",
        "limbeck.losses.logits.ofa:OFA",
        "Soft cross-entropy that enhances the label, between unlike architectures",
        "Hao et al., 2023, arXiv:2310.19444",
        "teacher logits, labels",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "BinaryKL",
        "terms",
        "limbeck.losses.logits.binarykl:BinaryKL",
        "KL class by class, on sigmoids",
        "Yang et al., 2024, arXiv:2411.08937",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "BinaryKLNorm",
        "terms",
        "limbeck.losses.logits.binaryklnorm:BinaryKLNorm",
        "log cosh of the logits' difference: dual-head distillation's loss",
        "Yang et al., 2024, arXiv:2411.08937",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "BDKD",
        "terms",
        "limbeck.losses.logits.bdkd:BDKD",
        "Forward and reverse KL, balanced by the entropies",
        "2022, arXiv:2212.12965",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "ReverseKL",
        "terms",
        "limbeck.losses.logits.reversekl:ReverseKL",
        "KL(student || teacher), which seeks modes",
        "Gu et al., 2023, arXiv:2306.08543",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "JSD",
        "terms",
        "limbeck.losses.logits.jsd:JSD",
        "Generalised Jensen-Shannon divergence",
        "Agarwal et al., 2023, arXiv:2306.13649",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "SkewKL",
        "terms",
        "limbeck.losses.logits.skewkl:SkewKL",
        "KL to a mixture with the student",
        "Ko et al., 2024, arXiv:2402.03898",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "SkewReverseKL",
        "terms",
        "limbeck.losses.logits.skewreversekl:SkewReverseKL",
        "Reverse KL to a mixture with the teacher",
        "Ko et al., 2024, arXiv:2402.03898",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "TotalVariation",
        "terms",
        "limbeck.losses.logits.totalvariation:TotalVariation",
        "Half the sum of the probabilities' differences",
        "Wen et al., 2023, arXiv:2307.15190",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "TopKTail",
        "terms",
        "limbeck.losses.logits.topktail:TopKTail",
        "A divergence on the teacher's most probable classes and the mass of the others",
        "",
        "teacher logits, or their top-k",
        "that of the term within",
    ),
    Row(
        "ADPA",
        "terms",
        "limbeck.losses.logits.adpa:ADPA",
        "Rewards per token from what alignment taught the teacher",
        "Gao et al., 2025, arXiv:2502.17927",
        "the teacher before and after alignment, or their top-k",
        "two teacher forward passes",
        "experimental",
    ),
    Row(
        "OnReplies",
        "terms",
        "limbeck.losses.logits.onreplies:OnReplies",
        "Any term on logits on the preferred, the rejected or the student's own replies alone",
        "Gao et al., 2025, arXiv:2502.17927",
        "that of the term within; data by Preferences",
        "that of the term within",
        "experimental",
    ),
    Row(
        "AlphaDivergence",
        "terms",
        "limbeck.losses.logits.alphadivergence:AlphaDivergence",
        "Between forward and reverse KL, by alpha",
        "Amari, 1985",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "Chunked",
        "terms",
        "limbeck.losses.logits.chunked:Chunked",
        "Any term on tokens, a few positions at a time: less memory for large vocabularies",
        "as in Chen et al., 2016, arXiv:1604.06174",
        "that of the inner term; logits [B, L, V]",
        "the inner term twice",
        "experimental",
    ),
    Row(
        "TAID",
        "terms",
        "limbeck.losses.logits.taid:TAID",
        "A target that moves from the student to the teacher",
        "Shing et al., 2025, arXiv:2501.16937",
        "teacher logits",
        "one teacher forward pass; the loss once more",
        "experimental",
    ),
    Row(
        "ULD",
        "terms",
        "limbeck.losses.logits.uld:ULD",
        "Sorted probabilities against sorted: student and teacher of any vocabularies",
        "Boizard et al., 2024, arXiv:2402.12030",
        "teacher logits",
        "one teacher forward pass, a sort over the classes",
        "experimental",
    ),
    Row(
        "GOLD",
        "terms",
        "limbeck.losses.logits.gold:GOLD",
        "Jensen-Shannon on the classes that two vocabularies share, ULD on the others, on aligned tokens",
        "GOLD in TRL, on Boizard et al., 2024, arXiv:2402.12030",
        "teacher logits; groups and labels where tokens differ",
        "one teacher forward pass, a sort over the classes",
        "experimental",
    ),
    Row(
        "TokenSelect",
        "terms",
        "limbeck.losses.logits.tokenselect:TokenSelect",
        "Any term on the opening or the least certain tokens",
        "Kim, Baek, 2026, arXiv:2603.13260",
        "that of the inner term; logits [B, L, V]",
        "that of the inner term",
        "experimental",
    ),
    Row(
        "Ranked",
        "terms",
        "limbeck.losses.logits.ranked:Ranked",
        "Likelihood of the teacher's ranking of the student's proposals",
        "Kim, Baek, 2026, arXiv:2603.13260",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "GatedJSD",
        "terms",
        "limbeck.losses.logits.gatedjsd:GatedJSD",
        "Jensen-Shannon divergence where the student is less sure than the teacher",
        "Kim, Baek, 2026, arXiv:2603.13260",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "Entropy",
        "terms",
        "limbeck.losses.logits.entropy:Entropy",
        "The student's own entropy",
        "Kim, Baek, 2026, arXiv:2603.13260",
        "",
        "none",
        "experimental",
    ),
    Row(
        "OPSD",
        "terms",
        "limbeck.losses.logits.opsd:OPSD",
        "A divergence whose summands are cut off from above",
        "Zhao et al., 2026, arXiv:2601.18734",
        "teacher logits",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "SampledKL",
        "terms",
        "limbeck.losses.logits.sampledkl:SampledKL",
        "The reverse divergence on the tokens that were drawn",
        "Gu et al., 2023, arXiv:2306.08543",
        "teacher logits, step OnPolicy(1.0)",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "MiniLLM",
        "terms",
        "limbeck.losses.logits.minillm:MiniLLM",
        "Reverse divergence of the student's own texts, by policy gradient",
        "Gu et al., 2023, arXiv:2306.08543",
        "teacher logits, step OnPolicy(1.0)",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "TRRD",
        "terms",
        "limbeck.losses.logits.trrd:TRRD",
        "Policy gradient by reward in a trust region around student and teacher (RLAD; GRPO)",
        "arXiv:2602.22495; Shao et al., 2024, arXiv:2402.03300",
        "teacher logits, step GRPO",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "FIRST",
        "terms",
        "limbeck.losses.logits.first:FIRST",
        "The teacher's few most probable classes, recalibrated",
        "Shum et al., 2024, arXiv:2408.12168",
        "the teacher's most probable classes",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "Swing",
        "terms",
        "limbeck.losses.logits.swing:Swing",
        "After swing distillation: a temperature that grows with how private a token is",
        "after Li et al., 2022, arXiv:2212.08349",
        "teacher logits, a column `privacy`",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "Public",
        "terms",
        "limbeck.losses.logits.public:Public",
        "Any term on the tokens that are not private",
        "after Li et al., 2022, arXiv:2212.08349",
        "that of the inner term; a column `privacy`; logits [B, L, V]",
        "that of the inner term",
        "experimental",
    ),
    Row(
        "DBiLD",
        "terms",
        "limbeck.losses.logits.dbild:DBiLD",
        "Differences among the leading logits, led by either side",
        "Sun et al., 2026, arXiv:2604.14629",
        "teacher logits",
        "one teacher forward pass; k^2 numbers per token",
        "experimental",
    ),
    Row(
        "VirtualTeacher",
        "terms",
        "limbeck.losses.logits.virtualteacher:VirtualTeacher",
        "Control: KD from a made-up teacher that knows the label only",
        "Yuan et al., 2020, arXiv:1909.11723",
        "labels",
        "none",
        "experimental",
    ),
    Row(
        "OnHead",
        "terms",
        "limbeck.losses.heads.onhead:OnHead",
        "Another term on auxiliary heads, which the kept student does not have",
        "Yang et al., 2024, arXiv:2411.08937; Hao et al., 2023, arXiv:2310.19444",
        "that of the term",
        "a head or more",
        "experimental",
    ),
    Row(
        "Serial",
        "terms",
        "limbeck.losses.heads.serial:Serial",
        "Another term behind a linear layer that is folded into the classifier",
        "after Park, Lee, 2024, arXiv:2409.01679",
        "that of the term",
        "a C x C layer",
        "experimental",
    ),
    Row(
        "DHO",
        "terms",
        "limbeck.losses.heads.dho:DHO",
        "A second head for the teacher; inference mixes both",
        "Kang et al., 2025, arXiv:2505.07675",
        "teacher logits",
        "a linear head",
        "experimental",
    ),
    Row(
        "SP",
        "terms",
        "limbeck.losses.features.sp:SP",
        "Which samples of a batch look alike, row by row of the Gram matrix",
        "Tung, Mori, 2019, arXiv:1907.09682",
        "features of both sides",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "RKD",
        "terms",
        "limbeck.losses.features.rkd:RKD",
        "Distances between samples, and angles among them",
        "Park et al., 2019, arXiv:1904.05068",
        "features of both sides, at least 3 samples a batch",
        "one teacher forward pass, B^3 angles",
        "experimental",
    ),
    Row(
        "PKT",
        "terms",
        "limbeck.losses.features.pkt:PKT",
        "Each sample's neighbours in the batch as a distribution",
        "Passalis, Tefas, 2018, arXiv:1803.10837",
        "features of both sides",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "CC",
        "terms",
        "limbeck.losses.features.cc:CC",
        "Gaussian kernel between the samples of a batch",
        "Peng et al., 2019, arXiv:1904.01802",
        "features of both sides",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "AT",
        "terms",
        "limbeck.losses.features.at:AT",
        "Where in the image each stage is active",
        "Zagoruyko, Komodakis, 2017, arXiv:1612.03928",
        "maps of both sides",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "NST",
        "terms",
        "limbeck.losses.features.nst:NST",
        "Distributions of the channels, by maximum mean discrepancy",
        "Huang, Wang, 2017, arXiv:1707.01219",
        "maps of both sides",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "SimKD",
        "terms",
        "limbeck.losses.heads.simkd:SimKD",
        "The teacher's features through a projector; inference ends in the teacher's classifier",
        "Chen et al., 2022, arXiv:2203.14001",
        "features of both sides, a linear classifier of the teacher",
        "a projector, which inference keeps",
        "experimental",
    ),
    Row(
        "FitNet",
        "terms",
        "limbeck.losses.features.fitnet:FitNet",
        "The teacher's feature itself, through a trained adapter",
        "Romero et al., 2015, arXiv:1412.6550",
        "one feature of each side",
        "one teacher forward pass, an adapter in training",
        "experimental",
    ),
    Row(
        "ND",
        "terms",
        "limbeck.losses.features.nd:ND",
        "Embeddings along the teacher's class means and as long as its own (KD++)",
        "Wang et al., 2023, arXiv:2305.17007",
        "labels, features of both sides",
        "a teacher pass over the training set once, one teacher forward pass",
        "experimental",
    ),
    Row(
        "SRRL",
        "terms",
        "limbeck.losses.features.srrl:SRRL",
        "The last feature, and what the teacher's classifier says of it",
        "Yang et al., 2021, ICLR",
        "last features of both sides, a teacher with a linear classifier",
        "one teacher forward pass, an adapter in training",
        "experimental",
    ),
    Row(
        "VID",
        "terms",
        "limbeck.losses.features.vid:VID",
        "Likelihood of the teacher's features given the student's, variance trained",
        "Ahn et al., 2019, arXiv:1904.05835",
        "features of both sides",
        "one teacher forward pass, three layers a stage in training",
        "experimental",
    ),
    Row(
        "AB",
        "terms",
        "limbeck.losses.features.ab:AB",
        "On which side of 0 the teacher's units lie",
        "Heo et al., 2019, arXiv:1811.03233",
        "features of both sides",
        "one teacher forward pass, an adapter a stage in training",
        "experimental",
    ),
    Row(
        "FT",
        "terms",
        "limbeck.losses.features.ft:FT",
        "Factors of an autoencoder of the teacher's map",
        "Kim et al., 2018, arXiv:1802.04977",
        "maps of both sides",
        "30 teacher passes over the training set once, one teacher forward pass",
        "experimental",
    ),
    Row(
        "CRD",
        "terms",
        "limbeck.losses.features.crd:CRD",
        "Tells a sample's partner on the other side from samples of other classes",
        "Tian et al., 2020, arXiv:1910.10699",
        "labels, features of both sides",
        "one teacher forward pass, two memory banks of the training set",
        "experimental",
    ),
    Row(
        "ReviewKD",
        "terms",
        "limbeck.losses.features.reviewkd:ReviewKD",
        "Every stage of the teacher from all deeper stages of the student",
        "Chen et al., 2021, arXiv:2104.09044",
        "maps of both sides",
        "one teacher forward pass, a fusion a stage in training",
        "experimental",
    ),
    Row(
        "SemCKD",
        "terms",
        "limbeck.losses.features.semckd:SemCKD",
        "Stages compared with those that learnt attention picks",
        "Chen et al., 2021, arXiv:2012.03236",
        "features of both sides",
        "one teacher forward pass, a projector a pair of stages in training",
        "experimental",
    ),
    Row(
        "TRG",
        "terms",
        "limbeck.losses.features.trg:TRG",
        "Relations among tokens, within and between images",
        "Zhang et al., 2023, arXiv:2306.12442",
        "maps or tokens of both sides",
        "one teacher forward pass, M^2 pairs of tokens",
        "experimental",
    ),
    Row(
        "TGeoKD",
        "terms",
        "limbeck.losses.logits.tgeokd:TGeoKD",
        "KD and CE mixed by a ratio per sample, learned from teacher, student, label and class mean",
        "Hu et al., 2024, arXiv:2312.15112",
        "teacher logits, labels; step Bilevel to learn",
        "a net of 9 C inputs, one teacher pass over the training set",
        "experimental",
    ),
    Row(
        "LELP",
        "terms",
        "limbeck.losses.features.lelp:LELP",
        "Pseudo-subclasses read off the teacher's embeddings, for few classes",
        "Loo et al., 2024, arXiv:2409.20449",
        "labels, a teacher with a linear classifier",
        "a teacher pass over the training set once, one teacher forward pass, a head in training",
        "experimental",
    ),
    Row(
        "KD3",
        "terms",
        "limbeck.losses.features.kd3:KD3",
        "SimKD's alignment, more of it where the logits disagree",
        "Tang et al., 2023, arXiv:2307.11469",
        "last features of both sides, a teacher with a linear classifier",
        "one teacher forward pass; a projector that inference keeps",
        "experimental",
    ),
    Row(
        "DepthKD",
        "terms",
        "limbeck.losses.features.depthkd:DepthKD",
        "Dense regression: values, slopes and normals of a map",
        "Hu et al., 2021, arXiv:2105.06143",
        "a regressed map of both sides",
        "one teacher forward pass",
        "experimental",
    ),
    Row(
        "Python",
        "terms",
        "limbeck.losses.python:Python",
        "A term that your own class or function makes",
        "",
        "--allow-python",
        "that of the term",
    ),
    # weightings
    Row(
        "InfluenceWeighting",
        "weightings",
        "limbeck.weighting.influence:InfluenceWeighting",
        "KD-AIF: weights from each sample's influence on the query loss",
        KD_AIF,
        "query set",
        "rounds of scores, each about half an epoch; below ten epochs a student pass in some, a query gradient every few steps",
        steps=1.4,
    ),
    Row("Uniform", "weightings", "limbeck.weighting.uniform:Uniform", "All weights 1", "", "", "none"),
    Row("Random", "weightings", "limbeck.weighting.controls:Random", "Control: random weights", "", "", "none"),
    Row(
        "Shuffled",
        "weightings",
        "limbeck.weighting.controls:Shuffled",
        "Control: another weighting's weights, shuffled within the batch",
        "",
        "",
        "that of the other weighting",
    ),
    Row(
        "OwnLoss",
        "weightings",
        "limbeck.weighting.controls:OwnLoss",
        "Control: weights from the sample's own loss",
        "",
        "",
        "none",
    ),
    Row(
        "Oracle",
        "weightings",
        "limbeck.weighting.controls:Oracle",
        "Control: flipped labels get weight 0",
        "",
        "true labels",
        "none",
    ),
    Row("FromFile", "weightings", "limbeck.weighting.stored:FromFile", "Weights from a file, by sample", "", "a table", "none"),
    # solvers
    Row(
        "Identity",
        "solvers",
        "limbeck.influence.curvature.identity:Identity",
        "No curvature: q is the query gradient",
        "",
        "",
        "none",
    ),
    Row("Diagonal", "solvers", "limbeck.influence.curvature.diagonal:Diagonal", "Diagonal of the Fisher matrix", "", "", "low"),
    Row(
        "ConjugateGradient",
        "solvers",
        "limbeck.influence.curvature.conjugate_gradient:ConjugateGradient",
        "Conjugate gradients on Gauss-Newton products",
        "Martens, 2010, ICML",
        "",
        "about 1.5 steps per iteration",
    ),
    Row(
        "LiSSA",
        "solvers",
        "limbeck.influence.curvature.lissa:LiSSA",
        "Neumann series of curvature products",
        "Agarwal et al., 2017, arXiv:1602.03943",
        "",
        "about 1.5 steps per product, hundreds of them",
    ),
    Row(
        "LBFGS",
        "solvers",
        "limbeck.influence.curvature.lbfgs:LBFGS",
        "Limited-memory BFGS on the quadratic",
        "Nocedal, 1980",
        "",
        "about 1.5 steps per iteration",
    ),
    Row(
        "LastLayers",
        "solvers",
        "limbeck.influence.curvature.last_layers:LastLayers",
        "Another solver on the last layers alone",
        "",
        "",
        "that of the other solver, on fewer parameters",
    ),
    Row(
        "KFAC",
        "solvers",
        "limbeck.influence.curvature.kfac:KFAC",
        "One Kronecker product per layer",
        "Martens, Grosse, 2015, arXiv:1503.05671",
        "",
        "one to three steps per refresh",
    ),
    Row(
        "EKFAC",
        "solvers",
        "limbeck.influence.curvature.ekfac:EKFAC",
        "KFAC with eigenvalues measured in its eigenbasis",
        "George et al., 2018, arXiv:1806.03884",
        "",
        "two to eight steps per refresh",
    ),
    Row(
        "Exact",
        "solvers",
        "limbeck.influence.curvature.exact:Exact",
        "Dense damped Gauss-Newton matrix or Hessian, for small nets and tests",
        "Koh, Liang, 2017, arXiv:1703.04730",
        "at most some thousand parameters",
        "cubic in the parameters",
    ),
    # balancers
    Row("Static", "balancers", "limbeck.balancing.static:Static", "The coefficients as they are", "", "", "none"),
    Row(
        "DynamicLambda",
        "balancers",
        "limbeck.balancing.dynamic_lambda:DynamicLambda",
        "Lambda between task and distillation loss from their gradients' sizes and angle",
        "Kim et al., 2025, arXiv:2505.06270",
        "one term with and one without a teacher",
        "two backward passes of the last layer; one of the whole net more at level 'all'",
        "experimental",
        steps=1.5,
    ),
    Row(
        "Uncertainty",
        "balancers",
        "limbeck.balancing.uncertainty:Uncertainty",
        "Terms weighed by learned log-variances",
        "Kendall et al., 2018, arXiv:1705.07115",
        "",
        "none",
        "experimental",
        steps=1.0,
    ),
    Row(
        "GradientAlignment",
        "balancers",
        "limbeck.balancing.gradient_alignment:GradientAlignment",
        "Keeps a protected term's gradient free of conflicts with the others",
        "Yang et al., 2024, arXiv:2411.08937",
        "two terms or more",
        "one backward pass per term",
        "experimental",
        steps=1.5,
    ),
    Row(
        "PCGrad",
        "balancers",
        "limbeck.balancing.multi_task:PCGrad",
        "Projects conflicting gradients off each other",
        "Yu et al., 2020, arXiv:2001.06782",
        "limbeck[balance]",
        "one backward pass per term",
        "experimental",
        steps=1.5,
    ),
    Row(
        "MGDA",
        "balancers",
        "limbeck.balancing.multi_task:MGDA",
        "Minimum-norm convex combination of the gradients",
        "Sener, Koltun, 2018, arXiv:1810.04650",
        "limbeck[balance]",
        "one backward pass per term",
        "experimental",
        steps=1.5,
    ),
    Row(
        "CAGrad",
        "balancers",
        "limbeck.balancing.multi_task:CAGrad",
        "Near the sum of the gradients, the best gain of the worst-off loss",
        "Liu et al., 2021, arXiv:2110.14048",
        "limbeck[balance]",
        "one backward pass per term",
        "experimental",
        steps=1.5,
    ),
    Row(
        "UPGrad",
        "balancers",
        "limbeck.balancing.multi_task:UPGrad",
        "Projects each gradient to where no loss rises",
        "Quinton, Rey, 2024, arXiv:2406.16232",
        "",
        "one backward pass per term",
        "experimental",
        steps=1.5,
    ),
    # mixtures
    Row(
        "DDK",
        "mixtures",
        "limbeck.mixtures.ddk:DDK",
        "Domains in which the student lags behind the teacher are drawn more often",
        "Liu et al., 2024, arXiv:2407.16154",
        "domains, a query set, all of the teacher's logits",
        "a pass over the query set at each renewal",
        "experimental",
    ),
    Row(
        "FixedShares",
        "mixtures",
        "limbeck.mixtures.fixedshares:FixedShares",
        "Every domain has its share of what is drawn; equal ones, or as given",
        "",
        "domains",
        "none",
    ),
    # teachers
    Row(
        "Single",
        "teachers",
        "limbeck.teachers.single:Single",
        "One model, frozen or moved by a step",
        "",
        "a model",
        "its forward pass",
    ),
    Row(
        "Ensemble",
        "teachers",
        "limbeck.teachers.ensemble:Ensemble",
        "Weighted mean of the probabilities or logits of several teachers",
        "Hinton et al., 2015, arXiv:1503.02531",
        "teachers",
        "their forward passes",
        "experimental",
    ),
    Row(
        "Aligned",
        "teachers",
        "limbeck.teachers.aligned:Aligned",
        "A teacher aligned to preferences, and the same one before that",
        "Gao et al., 2025, arXiv:2502.17927",
        "two teachers",
        "their forward passes",
        "experimental",
    ),
    Row(
        "AlignedPair",
        "teachers",
        "limbeck.experiment.ready:AlignedPair",
        "The same of two nets, for recipes",
        "Gao et al., 2025, arXiv:2502.17927",
        "two pretrained nets",
        "their forward passes",
        "experimental",
    ),
    Row(
        "Stored",
        "teachers",
        "limbeck.teachers.stored:Stored",
        "Answers that `limbeck cache` wrote, by sample; refuses samples that are not those",
        "",
        "a folder of `limbeck cache`",
        "reading; no teacher in memory",
    ),
    Row(
        "Served",
        "teachers",
        "limbeck.teachers.served:Served",
        "A language model behind an endpoint that gives log-probabilities of prompts",
        "",
        "a server such as vLLM's; terms on top-k",
        "a request per few samples and step",
    ),
    # steps
    Row(
        "Student",
        "steps",
        "limbeck.training.steps.student:Student",
        "Student only (M1; M0 with uniform weights)",
        KD_AIF,
        "",
        "none",
    ),
    Row(
        "TeacherOnly",
        "steps",
        "limbeck.training.steps.teacher_only:TeacherOnly",
        "Teacher with weights of the student's lookahead, student unweighted (M2)",
        KD_AIF,
        "trainable teacher",
        "about three plain steps",
        "experimental",
    ),
    Row(
        "Simultaneous",
        "steps",
        "limbeck.training.steps.simultaneous:Simultaneous",
        "Teacher and student at once, both weighted (M3; M3u with weighted=False)",
        KD_AIF,
        "trainable teacher",
        "about three plain steps",
        "experimental",
    ),
    Row(
        "Sequential",
        "steps",
        "limbeck.training.steps.sequential:Sequential",
        "Teacher first, then the student with fresh weights (M4)",
        KD_AIF,
        "trainable teacher",
        "about four plain steps",
        "experimental",
    ),
    Row(
        "Offline",
        "steps",
        "limbeck.training.steps.offline:Offline",
        "Train once, score every sample once, train again with fixed weights",
        KD_AIF,
        "",
        "a second training and one scoring pass",
    ),
    Row(
        "MeanTeacher",
        "steps",
        "limbeck.training.steps.mean_teacher:MeanTeacher",
        "A teacher that is the running mean of its student",
        "Tarvainen, Valpola, 2017, arXiv:1703.01780",
        "a teacher of the student's architecture",
        "one copy of the student",
        "experimental",
        steps=1.0,
    ),
    Row(
        "Mutual",
        "steps",
        "limbeck.training.steps.mutual:Mutual",
        "Student and teachers learn from each other, all at once",
        "Zhang et al., 2018, arXiv:1706.00384; arXiv:2212.12965",
        "trainable teachers",
        "a training step of each peer",
        "experimental",
        steps=2.1,
    ),
    Row(
        "HARD",
        "steps",
        "limbeck.training.steps.hard:HARD",
        "Learnt augmentations on which student and teacher disagree",
        "after HARD, 2023, arXiv:2305.14890",
        "images, one teacher",
        "about three plain steps",
        "experimental",
        steps=3.0,
    ),
    Row(
        "OnPolicy",
        "steps",
        "limbeck.llm.onpolicy:OnPolicy",
        "A share of the steps on what the student, the teacher or both write (GKD, MiniLLM)",
        "Agarwal et al., 2024, arXiv:2306.13649",
        "language; terms without labels when the student writes; a live teacher",
        "a forward pass per token written",
        "experimental",
    ),
    Row(
        "AdaptiveReplay",
        "steps",
        "limbeck.llm.adaptivereplay:AdaptiveReplay",
        "The student's own texts as the query loss asks for them, and used again (DistiLLM)",
        "Ko et al., 2024, arXiv:2402.03898",
        "language; terms without labels; a live teacher; query set",
        "a forward pass per token written, a stored batch of tokens",
        "experimental",
    ),
    Row(
        "GRPO",
        "steps",
        "limbeck.llm.grpo:GRPO",
        "Groups of the student's completions with advantages by reward, for TRRD",
        "Shao et al., 2024, arXiv:2402.03300; RLAD, arXiv:2602.22495",
        "language with a tokenizer; terms without labels; a live teacher; a reward",
        "a forward pass per token written, group times the batch",
        "experimental",
    ),
    Row(
        "WithText",
        "steps",
        "limbeck.llm.withtext:WithText",
        "Another step, and the language-model loss on plain text beside it (MiniLLM's L_PT)",
        "Gu et al., 2023, arXiv:2306.08543",
        "language",
        "one training pass over as many rows",
        "experimental",
    ),
    # averages
    Row(
        "WAKD",
        "averages",
        "limbeck.training.averages.wakd:WAKD",
        "Arithmetic mean of the student's weights from some step on",
        "Berezovskiy, Morozov, 2023, arXiv:2309.11446",
        "",
        "one copy of the student",
        "experimental",
    ),
    Row(
        "WeightEMA",
        "averages",
        "limbeck.training.averages.weightema:WeightEMA",
        "Exponential mean of the student's weights",
        "Polyak, Juditsky, 1992",
        "",
        "one copy of the student",
        "experimental",
    ),
    Row(
        "SWAD",
        "averages",
        "limbeck.training.averages.swad:SWAD",
        "Mean of the weights over the flat stretch of the validation loss",
        "Cha et al., 2021, arXiv:2102.08604",
        "validation samples",
        "some copies of the student, a validation pass per segment",
        "experimental",
    ),
    Row(
        "Bilevel",
        "steps",
        "limbeck.training.steps.bilevel:Bilevel",
        "TGeo-KD: the controller by the query loss after the student's step, then the student",
        "Hu et al., 2024, arXiv:2312.15112",
        "objective with TGeoKD, query set",
        "about three plain steps when the controller learns",
        "experimental",
        steps=3.0,
    ),
    # data
    Row("Digits", "data", "limbeck.data.digits:Digits", "Handwritten digits of scikit-learn, 1,797 images of 8 x 8, no download"),
    Row("Arrays", "data", "limbeck.data.arrays:Arrays", "Arrays from an .npz file", "", "a file"),
    Row("Table", "data", "limbeck.data.table:Table", "Rows of a CSV or parquet file", "", "a file"),
    Row("ImageFolder", "data", "limbeck.data.folder:ImageFolder", "One folder of pictures per class", "", "limbeck[vision]"),
    Row("HF", "data", "limbeck.data.hub:HF", "A data set of the datasets library", "", "limbeck[text]"),
    Row(
        "Text",
        "data",
        "limbeck.data.text:Text",
        "Text, or prompts and answers, for language models",
    ),
    Row(
        "Preferences",
        "data",
        "limbeck.data.preferences:Preferences",
        "Prompts with preferred and rejected replies, for language models",
    ),
    Row(
        "CIFAR10",
        "data",
        "limbeck.data.torchvision_sets:CIFAR10",
        "50,000 + 10,000 photographs, 10 classes",
        "",
        "limbeck[vision]",
    ),
    Row(
        "CIFAR100",
        "data",
        "limbeck.data.torchvision_sets:CIFAR100",
        "50,000 + 10,000 photographs, 100 classes",
        "",
        "limbeck[vision]",
    ),
    Row(
        "SVHN",
        "data",
        "limbeck.data.torchvision_sets:SVHN",
        "73,257 + 26,032 photographs of house numbers",
        "",
        "limbeck[vision]",
    ),
    Row("FewLabels", "data", "limbeck.data.few_labels:FewLabels", "Another data set with most of its labels taken away"),
    Row("Python", "data", "limbeck.data.python:Python", "A source that your own function makes", "", "--allow-python"),
    Row("Words", "texts", "limbeck.data.words:Words", "Which columns are text, and how they become tokens"),
    Row("Pieces", "texts", "limbeck.data.pieces:Pieces", "Which columns are text, and the tokenizer that reads them"),
    Row("Bytes", "texts", "limbeck.data.tokens:Bytes", "Tokenizer: the bytes of a text"),
    Row(
        "Tokenizer",
        "texts",
        "limbeck.data.pretrained_tokenizer:Tokenizer",
        "Tokenizer of a pretrained model, by name, folder or file",
        "",
        "limbeck[text]",
    ),
    # rewards
    Row("SameText", "rewards", "limbeck.llm.rewards:SameText", "1 where the completion is the data's answer"),
    Row("LastNumber", "rewards", "limbeck.llm.rewards:LastNumber", "1 where the last number of both is the same"),
    # transforms
    Row(
        "CropFlip",
        "transforms",
        "limbeck.transforms.crop_flip:CropFlip",
        "Shift by up to some pixels and mirror at random, as usual for CIFAR",
        "",
        "images",
        "little",
    ),
    Row(
        "MixUp",
        "transforms",
        "limbeck.transforms.mixup:MixUp",
        "Samples mixed in pairs with their labels, all or a share of the batch",
        "Zhang et al., 2018, arXiv:1710.09412",
        "floats; terms CE and those without labels",
        "little",
        "experimental",
    ),
    Row(
        "MixDistribution",
        "transforms",
        "limbeck.transforms.mixdistribution:MixDistribution",
        "Images in the channels' means and deviations of others",
        "Tang et al., 2023, arXiv:2307.11469",
        "images",
        "little",
        "experimental",
    ),
    Row(
        "CutMix",
        "transforms",
        "limbeck.transforms.cutmix:CutMix",
        "Patches of other images, labels by area",
        "Yun et al., 2019, arXiv:1905.04899",
        "images; terms CE and those without labels",
        "little",
        "experimental",
    ),
    Row(
        "Chain",
        "transforms",
        "limbeck.transforms.chain:Chain",
        "Transforms one after the other",
        "",
        "",
        "theirs",
        "stable",
    ),
    # models
    Row("MLP", "models", "limbeck.models.mlp:MLP", "Fully connected net", "", "vectors or images"),
    Row("Transformer", "models", "limbeck.models.transformer:Transformer", "Small encoder with a classifier", "", "tokens"),
    Row("GPT", "models", "limbeck.models.gpt:GPT", "Small causal transformer", "", "language"),
    Row(
        "HFModel",
        "models",
        "limbeck.models.from_transformers:HFModel",
        "A classifier or causal model of transformers, pretrained or fresh",
        "",
        "tokens or language; limbeck[text]",
    ),
    Row(
        "LoRA",
        "adapters",
        "limbeck.models.from_transformers:LoRA",
        "Low-rank adapters: only they are trained",
        "Hu et al., 2022, arXiv:2106.09685",
        "HFModel",
    ),
    Row(
        "ResNet8x4",
        "models",
        "limbeck.models.resnet:ResNet8x4",
        "CIFAR ResNet, 8 layers, 4 times as wide",
        f"{RESNET}; {CRD}",
        "images",
    ),
    Row("ResNet8", "models", "limbeck.models.resnet:ResNet8", "CIFAR ResNet, 8 layers", f"{RESNET}; {CRD}", "images"),
    Row("ResNet20", "models", "limbeck.models.resnet:ResNet20", "CIFAR ResNet, 20 layers", f"{RESNET}; {CRD}", "images"),
    Row("ResNet32", "models", "limbeck.models.resnet:ResNet32", "CIFAR ResNet, 32 layers", f"{RESNET}; {CRD}", "images"),
    Row(
        "ResNet32x4",
        "models",
        "limbeck.models.resnet:ResNet32x4",
        "CIFAR ResNet, 32 layers, 4 times as wide",
        f"{RESNET}; {CRD}",
        "images",
    ),
    Row("ResNet56", "models", "limbeck.models.resnet:ResNet56", "CIFAR ResNet, 56 layers", f"{RESNET}; {CRD}", "images"),
    Row("ResNet110", "models", "limbeck.models.resnet:ResNet110", "CIFAR ResNet, 110 layers", f"{RESNET}; {CRD}", "images"),
    Row("WRN", "models", "limbeck.models.wrn:WRN", "Wide ResNet", "Zagoruyko, Komodakis, 2016, arXiv:1605.07146", "images"),
    Row(
        "VGG8",
        "models",
        "limbeck.models.vgg:VGG8",
        "CIFAR VGG, 8 layers",
        f"Simonyan, Zisserman, 2015, arXiv:1409.1556; {CRD}",
        "images",
    ),
    Row(
        "VGG13",
        "models",
        "limbeck.models.vgg:VGG13",
        "CIFAR VGG, 13 layers",
        f"Simonyan, Zisserman, 2015, arXiv:1409.1556; {CRD}",
        "images",
    ),
    Row(
        "MobileNetV2",
        "models",
        "limbeck.models.mobilenet:MobileNetV2",
        "CIFAR MobileNetV2",
        f"Sandler et al., 2018, arXiv:1801.04381; {CRD}",
        "images",
    ),
    Row(
        "ShuffleNetV1",
        "models",
        "limbeck.models.shufflenet_v1:ShuffleNetV1",
        "CIFAR ShuffleNet",
        f"Zhang et al., 2018, arXiv:1707.01083; {CRD}",
        "images",
    ),
    Row(
        "ShuffleNetV2",
        "models",
        "limbeck.models.shufflenet_v2:ShuffleNetV2",
        "CIFAR ShuffleNetV2",
        f"Ma et al., 2018, arXiv:1807.11164; {CRD}",
        "images",
    ),
    Row(
        "DeepEnsemble",
        "models",
        "limbeck.models.deepensemble:DeepEnsemble",
        "Several nets that are trained one by one as teachers and answer together",
        "Lakshminarayanan et al., 2017, arXiv:1612.01474",
        "terms on logits",
        "as many trainings and forward passes as members",
    ),
    Row("Timm", "models", "limbeck.models.from_timm:Timm", "Any model of timm, by name", "", "limbeck[vision]"),
    Row(
        "Torchvision",
        "models",
        "limbeck.models.from_torchvision:Torchvision",
        "Any model of torchvision, by name",
        "",
        "limbeck[vision]",
    ),
    Row("Python", "models", "limbeck.models.from_python:Python", "A net that your own function makes", "", "--allow-python"),
    # optimizers and schedules
    Row("SGD", "optimizers", "limbeck.experiment.optimizers:SGD", "Stochastic gradient descent with momentum"),
    Row("Adam", "optimizers", "limbeck.experiment.optimizers:Adam", "Adam", "Kingma, Ba, 2015, arXiv:1412.6980"),
    Row(
        "AdamW",
        "optimizers",
        "limbeck.experiment.optimizers:AdamW",
        "Adam with weight decay beside it",
        "Loshchilov, Hutter, 2019, arXiv:1711.05101",
    ),
    Row("Constant", "schedules", "limbeck.experiment.schedules:Constant", "The same learning rate throughout"),
    Row(
        "Cosine",
        "schedules",
        "limbeck.experiment.schedules:Cosine",
        "Down to 0 along a cosine",
        "Loshchilov, Hutter, 2017, arXiv:1608.03983",
    ),
    Row("Steps", "schedules", "limbeck.experiment.schedules:Steps", "Lowered at fixed epochs"),
)


def kinds() -> tuple[Kind, ...]:
    """All kinds, in the order in which they are listed."""
    return get_args(Kind)


@cache
def added() -> tuple[Row, ...]:
    """The rows of other installed packages; what cannot be taken is left out, with one warning that names its package."""
    found: dict[str, Row] = {}
    taken = {row.name: row for row in ROWS}
    for package, content in offered(GROUP):
        if not isinstance(content, list | tuple) or not all(_sound(row) for row in content):
            warnings.warn(
                f"the package {package} must offer a sequence of limbeck.catalogue.Row, each with a known kind and a path "
                f"'module:class', got {content!r:.80}; its methods were left out.",
                stacklevel=2,
            )
            continue
        for row in content:
            other = found.get(row.name, taken.get(row.name))
            if other is not None:
                warnings.warn(
                    f"the package {package} names a {WORDS[row.kind]} {row.name!r}, but that is a {WORDS[other.kind]} of "
                    f"{other.package} already; it was left out, and should get another name.",
                    stacklevel=2,
                )
                continue
            found[row.name] = replace(row, package=package)
    return tuple(found.values())


def _sound(row: object) -> bool:
    """Whether a row of another package can be taken: a known kind, a name to type, a dotted name to import."""
    if not isinstance(row, Row) or row.kind not in WORDS or not row.name.isidentifier():
        return False
    module, _, name = row.path.partition(":")
    return all(part.isidentifier() for part in [*module.split("."), name])


def everything() -> tuple[Row, ...]:
    """All rows: limbeck's own, then those of other packages."""
    return (*ROWS, *added())


def rows(*wanted: Kind) -> tuple[Row, ...]:
    """The rows of these kinds."""
    return tuple(row for row in everything() if row.kind in wanted)


class Makers(Mapping[str, Callable[..., object]]):
    """Name -> class, for some kinds; a class is imported when it is looked up and not before."""

    def __init__(self, *wanted: Kind) -> None:
        self._rows = {row.name: row for row in rows(*wanted)}

    def __getitem__(self, name: str) -> Callable[..., object]:
        return self._rows[name].resolve()

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def methods_page() -> str:
    """METHODS.md."""
    lines = ["# Methods", "", "Rendered from `src/limbeck/catalogue.py` by `make docs`; a test checks that the two agree."]
    for kind in kinds():
        lines += ["", f"## {kind.capitalize()}", "", "| name | paper | class | needs | cost |", "|---|---|---|---|---|"]
        for row in (row for row in ROWS if row.kind == kind):
            mark = " (experimental)" if row.status == "experimental" else ""
            parts = (f"**{row.name}**{mark}: {row.summary}", row.paper, f"`{row.path.replace(':', '.')}`", row.needs, row.cost)
            lines.append("| " + " | ".join(part or "-" for part in parts) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(methods_page(), end="")  # noqa: T201  the page goes where `make docs` sends it
