"""The public names and nothing else. Each is imported when it is first used, so that `import limbeck` does not load torch.

Over 300 lines, since it is two tables: one for running, its twin for type checkers.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

_PLACES: Mapping[str, str] = {
    # what flows through a run
    "Batch": "limbeck.core.batch:Batch",
    "Outputs": "limbeck.core.outputs:Outputs",
    "Views": "limbeck.core.outputs:Views",
    "Term": "limbeck.core.term:Term",
    "Objective": "limbeck.core.objective:Objective",
    "errors": "limbeck.core.errors",
    # terms
    "CE": "limbeck.losses.labels.ce:CE",
    "KD": "limbeck.losses.logits.kd:KD",
    "DKD": "limbeck.losses.logits.dkd:DKD",
    "AEKT": "limbeck.losses.logits.aekt:AEKT",
    "DIST": "limbeck.losses.logits.dist:DIST",
    "WSLD": "limbeck.losses.logits.wsld:WSLD",
    "MLKD": "limbeck.losses.logits.mlkd:MLKD",
    "CTKD": "limbeck.losses.logits.ctkd:CTKD",
    "PLD": "limbeck.losses.logits.pld:PLD",
    "Standardised": "limbeck.losses.logits.standardised:Standardised",
    "OFA": "limbeck.losses.logits.ofa:OFA",
    "BinaryKL": "limbeck.losses.logits.binarykl:BinaryKL",
    "BinaryKLNorm": "limbeck.losses.logits.binaryklnorm:BinaryKLNorm",
    "BDKD": "limbeck.losses.logits.bdkd:BDKD",
    "ReverseKL": "limbeck.losses.logits.reversekl:ReverseKL",
    "JSD": "limbeck.losses.logits.jsd:JSD",
    "SkewKL": "limbeck.losses.logits.skewkl:SkewKL",
    "SkewReverseKL": "limbeck.losses.logits.skewreversekl:SkewReverseKL",
    "TGeoKD": "limbeck.losses.logits.tgeokd:TGeoKD",
    "TotalVariation": "limbeck.losses.logits.totalvariation:TotalVariation",
    "TopKTail": "limbeck.losses.logits.topktail:TopKTail",
    "ADPA": "limbeck.losses.logits.adpa:ADPA",
    "OnReplies": "limbeck.losses.logits.onreplies:OnReplies",
    "AlphaDivergence": "limbeck.losses.logits.alphadivergence:AlphaDivergence",
    "Chunked": "limbeck.losses.logits.chunked:Chunked",
    "TAID": "limbeck.losses.logits.taid:TAID",
    "ULD": "limbeck.losses.logits.uld:ULD",
    "GOLD": "limbeck.losses.logits.gold:GOLD",
    "TokenSelect": "limbeck.losses.logits.tokenselect:TokenSelect",
    "Ranked": "limbeck.losses.logits.ranked:Ranked",
    "GatedJSD": "limbeck.losses.logits.gatedjsd:GatedJSD",
    "Entropy": "limbeck.losses.logits.entropy:Entropy",
    "OPSD": "limbeck.losses.logits.opsd:OPSD",
    "SampledKL": "limbeck.losses.logits.sampledkl:SampledKL",
    "MiniLLM": "limbeck.losses.logits.minillm:MiniLLM",
    "TRRD": "limbeck.losses.logits.trrd:TRRD",
    "FIRST": "limbeck.losses.logits.first:FIRST",
    "Swing": "limbeck.losses.logits.swing:Swing",
    "Public": "limbeck.losses.logits.public:Public",
    "DBiLD": "limbeck.losses.logits.dbild:DBiLD",
    "VirtualTeacher": "limbeck.losses.logits.virtualteacher:VirtualTeacher",
    "OnHead": "limbeck.losses.heads.onhead:OnHead",
    "Serial": "limbeck.losses.heads.serial:Serial",
    "DHO": "limbeck.losses.heads.dho:DHO",
    "SP": "limbeck.losses.features.sp:SP",
    "RKD": "limbeck.losses.features.rkd:RKD",
    "PKT": "limbeck.losses.features.pkt:PKT",
    "CC": "limbeck.losses.features.cc:CC",
    "AT": "limbeck.losses.features.at:AT",
    "NST": "limbeck.losses.features.nst:NST",
    "SimKD": "limbeck.losses.heads.simkd:SimKD",
    "FitNet": "limbeck.losses.features.fitnet:FitNet",
    "ND": "limbeck.losses.features.nd:ND",
    "SRRL": "limbeck.losses.features.srrl:SRRL",
    "VID": "limbeck.losses.features.vid:VID",
    "AB": "limbeck.losses.features.ab:AB",
    "FT": "limbeck.losses.features.ft:FT",
    "CRD": "limbeck.losses.features.crd:CRD",
    "ReviewKD": "limbeck.losses.features.reviewkd:ReviewKD",
    "SemCKD": "limbeck.losses.features.semckd:SemCKD",
    "TRG": "limbeck.losses.features.trg:TRG",
    "LELP": "limbeck.losses.features.lelp:LELP",
    "KD3": "limbeck.losses.features.kd3:KD3",
    "DepthKD": "limbeck.losses.features.depthkd:DepthKD",
    # data
    "InMemory": "limbeck.data.source:InMemory",
    "Source": "limbeck.data.source:Source",
    "Digits": "limbeck.data.digits:Digits",
    "Arrays": "limbeck.data.arrays:Arrays",
    "Table": "limbeck.data.table:Table",
    "ImageFolder": "limbeck.data.folder:ImageFolder",
    "HF": "limbeck.data.hub:HF",
    "FewLabels": "limbeck.data.few_labels:FewLabels",
    "CIFAR10": "limbeck.data.torchvision_sets:CIFAR10",
    "CIFAR100": "limbeck.data.torchvision_sets:CIFAR100",
    "SVHN": "limbeck.data.torchvision_sets:SVHN",
    "Words": "limbeck.data.words:Words",
    "Bytes": "limbeck.data.tokens:Bytes",
    "Pieces": "limbeck.data.pieces:Pieces",
    "Text": "limbeck.data.text:Text",
    "Preferences": "limbeck.data.preferences:Preferences",
    "Tokenizer": "limbeck.data.pretrained_tokenizer:Tokenizer",
    "Splits": "limbeck.data.splits:Splits",
    "split": "limbeck.data.splits:split",
    "Loader": "limbeck.data.loader:Loader",
    "Domains": "limbeck.data.domains:Domains",
    "whole": "limbeck.data.loader:whole",
    "CropFlip": "limbeck.transforms.crop_flip:CropFlip",
    "MixUp": "limbeck.transforms.mixup:MixUp",
    "CutMix": "limbeck.transforms.cutmix:CutMix",
    "MixDistribution": "limbeck.transforms.mixdistribution:MixDistribution",
    "Chain": "limbeck.transforms.chain:Chain",
    # models
    "Architecture": "limbeck.models.spec:Architecture",
    "DataSpec": "limbeck.models.spec:DataSpec",
    "MLP": "limbeck.models.mlp:MLP",
    "DeepEnsemble": "limbeck.models.deepensemble:DeepEnsemble",
    "Transformer": "limbeck.models.transformer:Transformer",
    "GPT": "limbeck.models.gpt:GPT",
    "HFModel": "limbeck.models.from_transformers:HFModel",
    "LoRA": "limbeck.models.from_transformers:LoRA",
    "ResNet8": "limbeck.models.resnet:ResNet8",
    "ResNet8x4": "limbeck.models.resnet:ResNet8x4",
    "ResNet20": "limbeck.models.resnet:ResNet20",
    "ResNet32": "limbeck.models.resnet:ResNet32",
    "ResNet32x4": "limbeck.models.resnet:ResNet32x4",
    "ResNet56": "limbeck.models.resnet:ResNet56",
    "ResNet110": "limbeck.models.resnet:ResNet110",
    "WRN": "limbeck.models.wrn:WRN",
    "VGG8": "limbeck.models.vgg:VGG8",
    "VGG13": "limbeck.models.vgg:VGG13",
    "MobileNetV2": "limbeck.models.mobilenet:MobileNetV2",
    "ShuffleNetV1": "limbeck.models.shufflenet_v1:ShuffleNetV1",
    "ShuffleNetV2": "limbeck.models.shufflenet_v2:ShuffleNetV2",
    "Timm": "limbeck.models.from_timm:Timm",
    "Torchvision": "limbeck.models.from_torchvision:Torchvision",
    "Tapped": "limbeck.align.taps:Tapped",
    "Teacher": "limbeck.teachers.teacher:Teacher",
    "Single": "limbeck.teachers.single:Single",
    "Ensemble": "limbeck.teachers.ensemble:Ensemble",
    "Aligned": "limbeck.teachers.aligned:Aligned",
    "AlignedPair": "limbeck.experiment.ready:AlignedPair",
    "Stored": "limbeck.teachers.stored:Stored",
    "Served": "limbeck.teachers.served:Served",
    # weights
    "Weighting": "limbeck.weighting.weighting:Weighting",
    "InfluenceWeighting": "limbeck.weighting.influence:InfluenceWeighting",
    "Uniform": "limbeck.weighting.uniform:Uniform",
    "Oracle": "limbeck.weighting.controls:Oracle",
    "OwnLoss": "limbeck.weighting.controls:OwnLoss",
    "Random": "limbeck.weighting.controls:Random",
    "Shuffled": "limbeck.weighting.controls:Shuffled",
    "FromFile": "limbeck.weighting.stored:FromFile",
    "effective_sample_size": "limbeck.weighting.squash:effective_sample_size",
    "mean_one": "limbeck.weighting.squash:mean_one",
    "normalise": "limbeck.weighting.squash:normalise",
    "squash": "limbeck.weighting.squash:squash",
    # balance
    "Static": "limbeck.balancing.static:Static",
    "DynamicLambda": "limbeck.balancing.dynamic_lambda:DynamicLambda",
    "Uncertainty": "limbeck.balancing.uncertainty:Uncertainty",
    "GradientAlignment": "limbeck.balancing.gradient_alignment:GradientAlignment",
    "PCGrad": "limbeck.balancing.multi_task:PCGrad",
    "MGDA": "limbeck.balancing.multi_task:MGDA",
    "CAGrad": "limbeck.balancing.multi_task:CAGrad",
    "UPGrad": "limbeck.balancing.multi_task:UPGrad",
    "Balancer": "limbeck.balancing.balancer:Balancer",
    # influence
    "Distillation": "limbeck.influence.task:Distillation",
    "Supervised": "limbeck.influence.task:Supervised",
    "Task": "limbeck.influence.task:Task",
    "Scores": "limbeck.influence.scores:Scores",
    "score": "limbeck.influence.scores:score",
    "Explanation": "limbeck.influence.explain:Explanation",
    "Removal": "limbeck.influence.explain:Removal",
    "SelfInfluence": "limbeck.influence.matrix:SelfInfluence",
    "Tile": "limbeck.influence.matrix:Tile",
    "TokenScores": "limbeck.influence.tokens:TokenScores",
    "explain": "limbeck.influence.explain:explain",
    "group_sums": "limbeck.influence.scores:group_sums",
    "measure_removal": "limbeck.influence.explain:measure_removal",
    "removal_curve": "limbeck.influence.explain:removal_curve",
    "score_matrix": "limbeck.influence.matrix:score_matrix",
    "score_tokens": "limbeck.influence.tokens:score_tokens",
    "self_influence": "limbeck.influence.matrix:self_influence",
    "Solver": "limbeck.influence.curvature.solver:Solver",
    "Identity": "limbeck.influence.curvature.identity:Identity",
    "Diagonal": "limbeck.influence.curvature.diagonal:Diagonal",
    "ConjugateGradient": "limbeck.influence.curvature.conjugate_gradient:ConjugateGradient",
    "LiSSA": "limbeck.influence.curvature.lissa:LiSSA",
    "LBFGS": "limbeck.influence.curvature.lbfgs:LBFGS",
    "LastLayers": "limbeck.influence.curvature.last_layers:LastLayers",
    "KFAC": "limbeck.influence.curvature.kfac:KFAC",
    "EKFAC": "limbeck.influence.curvature.ekfac:EKFAC",
    "Exact": "limbeck.influence.curvature.exact:Exact",
    # training
    "Distiller": "limbeck.distiller:Distiller",
    "LocalEngine": "limbeck.engine.local:LocalEngine",
    "AccelerateEngine": "limbeck.engine.accelerate:AccelerateEngine",
    "fit": "limbeck.training.fit:fit",
    "Callback": "limbeck.training.callback:Callback",
    "Keeper": "limbeck.training.checkpoint:Keeper",
    "Student": "limbeck.training.steps.student:Student",
    "TeacherOnly": "limbeck.training.steps.teacher_only:TeacherOnly",
    "Simultaneous": "limbeck.training.steps.simultaneous:Simultaneous",
    "Sequential": "limbeck.training.steps.sequential:Sequential",
    "Offline": "limbeck.training.steps.offline:Offline",
    "Bilevel": "limbeck.training.steps.bilevel:Bilevel",
    "export": "limbeck.students.export:export",
    "MeanTeacher": "limbeck.training.steps.mean_teacher:MeanTeacher",
    "OnPolicy": "limbeck.llm.onpolicy:OnPolicy",
    "Mixing": "limbeck.training.steps.mixing:Mixing",
    "Mixture": "limbeck.mixtures.mixture:Mixture",
    "DomainLosses": "limbeck.mixtures.mixture:DomainLosses",
    "DDK": "limbeck.mixtures.ddk:DDK",
    "FixedShares": "limbeck.mixtures.fixedshares:FixedShares",
    "AdaptiveReplay": "limbeck.llm.adaptivereplay:AdaptiveReplay",
    "GRPO": "limbeck.llm.grpo:GRPO",
    "WithText": "limbeck.llm.withtext:WithText",
    "Reward": "limbeck.llm.rewards:Reward",
    "SameText": "limbeck.llm.rewards:SameText",
    "LastNumber": "limbeck.llm.rewards:LastNumber",
    "Rollout": "limbeck.llm.rollouts:Rollout",
    "generate": "limbeck.llm.rollouts:generate",
    "write_replies": "limbeck.llm.replies:write_replies",
    "WAKD": "limbeck.training.averages.wakd:WAKD",
    "WeightEMA": "limbeck.training.averages.weightema:WeightEMA",
    "SWAD": "limbeck.training.averages.swad:SWAD",
    "Mutual": "limbeck.training.steps.mutual:Mutual",
    "generations": "limbeck.training.generations:generations",
    "HARD": "limbeck.training.steps.hard:HARD",
    # figures, verdict and whole runs
    "accuracy": "limbeck.evaluation.accuracy:accuracy",
    "nll": "limbeck.evaluation.accuracy:nll",
    "calibration_error": "limbeck.evaluation.calibration:calibration_error",
    "agreement": "limbeck.evaluation.fidelity:agreement",
    "depth_figures": "limbeck.evaluation.depth:depth_figures",
    "flip_auc": "limbeck.evaluation.flips:flip_auc",
    "HackingMonitor": "limbeck.evaluation.hacking:HackingMonitor",
    "PowerLaw": "limbeck.evaluation.hacking:PowerLaw",
    "reference_divergence": "limbeck.evaluation.hacking:reference_divergence",
    "candidate_losses": "limbeck.evaluation.exposure:candidate_losses",
    "exposure": "limbeck.evaluation.exposure:exposure",
    "extrapolated_exposure": "limbeck.evaluation.exposure:extrapolated_exposure",
    "answer_agreement": "limbeck.evaluation.texts:answer_agreement",
    "exact_match": "limbeck.evaluation.texts:exact_match",
    "rouge_l": "limbeck.evaluation.texts:rouge_l",
    "compare": "limbeck.evaluation.verdict:compare",
    "judge": "limbeck.evaluation.verdict:judge",
    "Recipe": "limbeck.experiment.recipe:Recipe",
    "load_recipe": "limbeck.experiment.recipe:load",
    "run": "limbeck.experiment.run:run",
}
"""Public name -> "module:attribute", or the module itself."""

if TYPE_CHECKING:  # the same names for type checkers and editors; a test holds the two together
    from limbeck.align.taps import Tapped as Tapped
    from limbeck.balancing.balancer import Balancer as Balancer
    from limbeck.balancing.dynamic_lambda import DynamicLambda as DynamicLambda
    from limbeck.balancing.gradient_alignment import GradientAlignment as GradientAlignment
    from limbeck.balancing.multi_task import MGDA as MGDA
    from limbeck.balancing.multi_task import CAGrad as CAGrad
    from limbeck.balancing.multi_task import PCGrad as PCGrad
    from limbeck.balancing.multi_task import UPGrad as UPGrad
    from limbeck.balancing.static import Static as Static
    from limbeck.balancing.uncertainty import Uncertainty as Uncertainty
    from limbeck.core import errors as errors
    from limbeck.core.batch import Batch as Batch
    from limbeck.core.objective import Objective as Objective
    from limbeck.core.outputs import Outputs as Outputs
    from limbeck.core.outputs import Views as Views
    from limbeck.core.term import Term as Term
    from limbeck.data.arrays import Arrays as Arrays
    from limbeck.data.digits import Digits as Digits
    from limbeck.data.domains import Domains as Domains
    from limbeck.data.few_labels import FewLabels as FewLabels
    from limbeck.data.folder import ImageFolder as ImageFolder
    from limbeck.data.hub import HF as HF
    from limbeck.data.loader import Loader as Loader
    from limbeck.data.loader import whole as whole
    from limbeck.data.pieces import Pieces as Pieces
    from limbeck.data.preferences import Preferences as Preferences
    from limbeck.data.pretrained_tokenizer import Tokenizer as Tokenizer
    from limbeck.data.source import InMemory as InMemory
    from limbeck.data.source import Source as Source
    from limbeck.data.splits import Splits as Splits
    from limbeck.data.splits import split as split
    from limbeck.data.table import Table as Table
    from limbeck.data.text import Text as Text
    from limbeck.data.tokens import Bytes as Bytes
    from limbeck.data.torchvision_sets import CIFAR10 as CIFAR10
    from limbeck.data.torchvision_sets import CIFAR100 as CIFAR100
    from limbeck.data.torchvision_sets import SVHN as SVHN
    from limbeck.data.words import Words as Words
    from limbeck.distiller import Distiller as Distiller
    from limbeck.engine.accelerate import AccelerateEngine as AccelerateEngine
    from limbeck.engine.local import LocalEngine as LocalEngine
    from limbeck.evaluation.accuracy import accuracy as accuracy
    from limbeck.evaluation.accuracy import nll as nll
    from limbeck.evaluation.calibration import calibration_error as calibration_error
    from limbeck.evaluation.depth import depth_figures as depth_figures
    from limbeck.evaluation.exposure import candidate_losses as candidate_losses
    from limbeck.evaluation.exposure import exposure as exposure
    from limbeck.evaluation.exposure import extrapolated_exposure as extrapolated_exposure
    from limbeck.evaluation.fidelity import agreement as agreement
    from limbeck.evaluation.flips import flip_auc as flip_auc
    from limbeck.evaluation.hacking import HackingMonitor as HackingMonitor
    from limbeck.evaluation.hacking import PowerLaw as PowerLaw
    from limbeck.evaluation.hacking import reference_divergence as reference_divergence
    from limbeck.evaluation.texts import answer_agreement as answer_agreement
    from limbeck.evaluation.texts import exact_match as exact_match
    from limbeck.evaluation.texts import rouge_l as rouge_l
    from limbeck.evaluation.verdict import compare as compare
    from limbeck.evaluation.verdict import judge as judge
    from limbeck.experiment.ready import AlignedPair as AlignedPair
    from limbeck.experiment.recipe import Recipe as Recipe
    from limbeck.experiment.recipe import load as _load
    from limbeck.experiment.run import run as run
    from limbeck.influence.curvature.conjugate_gradient import ConjugateGradient as ConjugateGradient
    from limbeck.influence.curvature.diagonal import Diagonal as Diagonal
    from limbeck.influence.curvature.ekfac import EKFAC as EKFAC
    from limbeck.influence.curvature.exact import Exact as Exact
    from limbeck.influence.curvature.identity import Identity as Identity
    from limbeck.influence.curvature.kfac import KFAC as KFAC
    from limbeck.influence.curvature.last_layers import LastLayers as LastLayers
    from limbeck.influence.curvature.lbfgs import LBFGS as LBFGS
    from limbeck.influence.curvature.lissa import LiSSA as LiSSA
    from limbeck.influence.curvature.solver import Solver as Solver
    from limbeck.influence.explain import Explanation as Explanation
    from limbeck.influence.explain import Removal as Removal
    from limbeck.influence.explain import explain as explain
    from limbeck.influence.explain import measure_removal as measure_removal
    from limbeck.influence.explain import removal_curve as removal_curve
    from limbeck.influence.matrix import SelfInfluence as SelfInfluence
    from limbeck.influence.matrix import Tile as Tile
    from limbeck.influence.matrix import score_matrix as score_matrix
    from limbeck.influence.matrix import self_influence as self_influence
    from limbeck.influence.scores import Scores as Scores
    from limbeck.influence.scores import group_sums as group_sums
    from limbeck.influence.scores import score as score
    from limbeck.influence.task import Distillation as Distillation
    from limbeck.influence.task import Supervised as Supervised
    from limbeck.influence.task import Task as Task
    from limbeck.influence.tokens import TokenScores as TokenScores
    from limbeck.influence.tokens import score_tokens as score_tokens
    from limbeck.llm.adaptivereplay import AdaptiveReplay as AdaptiveReplay
    from limbeck.llm.grpo import GRPO as GRPO
    from limbeck.llm.onpolicy import OnPolicy as OnPolicy
    from limbeck.llm.replies import write_replies as write_replies
    from limbeck.llm.rewards import LastNumber as LastNumber
    from limbeck.llm.rewards import Reward as Reward
    from limbeck.llm.rewards import SameText as SameText
    from limbeck.llm.rollouts import Rollout as Rollout
    from limbeck.llm.rollouts import generate as generate
    from limbeck.llm.withtext import WithText as WithText
    from limbeck.losses.features.ab import AB as AB
    from limbeck.losses.features.at import AT as AT
    from limbeck.losses.features.cc import CC as CC
    from limbeck.losses.features.crd import CRD as CRD
    from limbeck.losses.features.depthkd import DepthKD as DepthKD
    from limbeck.losses.features.fitnet import FitNet as FitNet
    from limbeck.losses.features.ft import FT as FT
    from limbeck.losses.features.kd3 import KD3 as KD3
    from limbeck.losses.features.lelp import LELP as LELP
    from limbeck.losses.features.nd import ND as ND
    from limbeck.losses.features.nst import NST as NST
    from limbeck.losses.features.pkt import PKT as PKT
    from limbeck.losses.features.reviewkd import ReviewKD as ReviewKD
    from limbeck.losses.features.rkd import RKD as RKD
    from limbeck.losses.features.semckd import SemCKD as SemCKD
    from limbeck.losses.features.sp import SP as SP
    from limbeck.losses.features.srrl import SRRL as SRRL
    from limbeck.losses.features.trg import TRG as TRG
    from limbeck.losses.features.vid import VID as VID
    from limbeck.losses.heads.dho import DHO as DHO
    from limbeck.losses.heads.onhead import OnHead as OnHead
    from limbeck.losses.heads.serial import Serial as Serial
    from limbeck.losses.heads.simkd import SimKD as SimKD
    from limbeck.losses.labels.ce import CE as CE
    from limbeck.losses.logits.adpa import ADPA as ADPA
    from limbeck.losses.logits.aekt import AEKT as AEKT
    from limbeck.losses.logits.alphadivergence import AlphaDivergence as AlphaDivergence
    from limbeck.losses.logits.bdkd import BDKD as BDKD
    from limbeck.losses.logits.binarykl import BinaryKL as BinaryKL
    from limbeck.losses.logits.binaryklnorm import BinaryKLNorm as BinaryKLNorm
    from limbeck.losses.logits.chunked import Chunked as Chunked
    from limbeck.losses.logits.ctkd import CTKD as CTKD
    from limbeck.losses.logits.dbild import DBiLD as DBiLD
    from limbeck.losses.logits.dist import DIST as DIST
    from limbeck.losses.logits.dkd import DKD as DKD
    from limbeck.losses.logits.entropy import Entropy as Entropy
    from limbeck.losses.logits.first import FIRST as FIRST
    from limbeck.losses.logits.gatedjsd import GatedJSD as GatedJSD
    from limbeck.losses.logits.gold import GOLD as GOLD
    from limbeck.losses.logits.jsd import JSD as JSD
    from limbeck.losses.logits.kd import KD as KD
    from limbeck.losses.logits.minillm import MiniLLM as MiniLLM
    from limbeck.losses.logits.mlkd import MLKD as MLKD
    from limbeck.losses.logits.ofa import OFA as OFA
    from limbeck.losses.logits.onreplies import OnReplies as OnReplies
    from limbeck.losses.logits.opsd import OPSD as OPSD
    from limbeck.losses.logits.pld import PLD as PLD
    from limbeck.losses.logits.public import Public as Public
    from limbeck.losses.logits.ranked import Ranked as Ranked
    from limbeck.losses.logits.reversekl import ReverseKL as ReverseKL
    from limbeck.losses.logits.sampledkl import SampledKL as SampledKL
    from limbeck.losses.logits.skewkl import SkewKL as SkewKL
    from limbeck.losses.logits.skewreversekl import SkewReverseKL as SkewReverseKL
    from limbeck.losses.logits.standardised import Standardised as Standardised
    from limbeck.losses.logits.swing import Swing as Swing
    from limbeck.losses.logits.taid import TAID as TAID
    from limbeck.losses.logits.tgeokd import TGeoKD as TGeoKD
    from limbeck.losses.logits.tokenselect import TokenSelect as TokenSelect
    from limbeck.losses.logits.topktail import TopKTail as TopKTail
    from limbeck.losses.logits.totalvariation import TotalVariation as TotalVariation
    from limbeck.losses.logits.trrd import TRRD as TRRD
    from limbeck.losses.logits.uld import ULD as ULD
    from limbeck.losses.logits.virtualteacher import VirtualTeacher as VirtualTeacher
    from limbeck.losses.logits.wsld import WSLD as WSLD
    from limbeck.mixtures.ddk import DDK as DDK
    from limbeck.mixtures.fixedshares import FixedShares as FixedShares
    from limbeck.mixtures.mixture import DomainLosses as DomainLosses
    from limbeck.mixtures.mixture import Mixture as Mixture
    from limbeck.models.deepensemble import DeepEnsemble as DeepEnsemble
    from limbeck.models.from_timm import Timm as Timm
    from limbeck.models.from_torchvision import Torchvision as Torchvision
    from limbeck.models.from_transformers import HFModel as HFModel
    from limbeck.models.from_transformers import LoRA as LoRA
    from limbeck.models.gpt import GPT as GPT
    from limbeck.models.mlp import MLP as MLP
    from limbeck.models.mobilenet import MobileNetV2 as MobileNetV2
    from limbeck.models.resnet import ResNet8 as ResNet8
    from limbeck.models.resnet import ResNet8x4 as ResNet8x4
    from limbeck.models.resnet import ResNet20 as ResNet20
    from limbeck.models.resnet import ResNet32 as ResNet32
    from limbeck.models.resnet import ResNet32x4 as ResNet32x4
    from limbeck.models.resnet import ResNet56 as ResNet56
    from limbeck.models.resnet import ResNet110 as ResNet110
    from limbeck.models.shufflenet_v1 import ShuffleNetV1 as ShuffleNetV1
    from limbeck.models.shufflenet_v2 import ShuffleNetV2 as ShuffleNetV2
    from limbeck.models.spec import Architecture as Architecture
    from limbeck.models.spec import DataSpec as DataSpec
    from limbeck.models.transformer import Transformer as Transformer
    from limbeck.models.vgg import VGG8 as VGG8
    from limbeck.models.vgg import VGG13 as VGG13
    from limbeck.models.wrn import WRN as WRN
    from limbeck.students.export import export as export
    from limbeck.teachers.aligned import Aligned as Aligned
    from limbeck.teachers.ensemble import Ensemble as Ensemble
    from limbeck.teachers.served import Served as Served
    from limbeck.teachers.single import Single as Single
    from limbeck.teachers.stored import Stored as Stored
    from limbeck.teachers.teacher import Teacher as Teacher
    from limbeck.training.averages.swad import SWAD as SWAD
    from limbeck.training.averages.wakd import WAKD as WAKD
    from limbeck.training.averages.weightema import WeightEMA as WeightEMA
    from limbeck.training.callback import Callback as Callback
    from limbeck.training.checkpoint import Keeper as Keeper
    from limbeck.training.fit import fit as fit
    from limbeck.training.generations import generations as generations
    from limbeck.training.steps.bilevel import Bilevel as Bilevel
    from limbeck.training.steps.hard import HARD as HARD
    from limbeck.training.steps.mean_teacher import MeanTeacher as MeanTeacher
    from limbeck.training.steps.mixing import Mixing as Mixing
    from limbeck.training.steps.mutual import Mutual as Mutual
    from limbeck.training.steps.offline import Offline as Offline
    from limbeck.training.steps.sequential import Sequential as Sequential
    from limbeck.training.steps.simultaneous import Simultaneous as Simultaneous
    from limbeck.training.steps.student import Student as Student
    from limbeck.training.steps.teacher_only import TeacherOnly as TeacherOnly
    from limbeck.transforms.chain import Chain as Chain
    from limbeck.transforms.crop_flip import CropFlip as CropFlip
    from limbeck.transforms.cutmix import CutMix as CutMix
    from limbeck.transforms.mixdistribution import MixDistribution as MixDistribution
    from limbeck.transforms.mixup import MixUp as MixUp
    from limbeck.weighting.controls import Oracle as Oracle
    from limbeck.weighting.controls import OwnLoss as OwnLoss
    from limbeck.weighting.controls import Random as Random
    from limbeck.weighting.controls import Shuffled as Shuffled
    from limbeck.weighting.influence import InfluenceWeighting as InfluenceWeighting
    from limbeck.weighting.squash import effective_sample_size as effective_sample_size
    from limbeck.weighting.squash import mean_one as mean_one
    from limbeck.weighting.squash import normalise as normalise
    from limbeck.weighting.squash import squash as squash
    from limbeck.weighting.stored import FromFile as FromFile
    from limbeck.weighting.uniform import Uniform as Uniform
    from limbeck.weighting.weighting import Weighting as Weighting

    load_recipe = _load
else:  # hidden from type checkers, which would take any name for a public one
    __all__ = [*_PLACES]

    def __getattr__(name: str) -> object:
        """The public name, imported on first use (PEP 562).

        Raises:
            AttributeError: There is no such name.
        """
        if name not in _PLACES:
            from limbeck.core.errors import nearest

            raise AttributeError(f"module 'limbeck' has no attribute {name!r}{nearest(name, _PLACES)}")
        module, _, attribute = _PLACES[name].partition(":")
        found = import_module(module)
        globals()[name] = getattr(found, attribute) if attribute else found
        return globals()[name]


def __dir__() -> list[str]:
    """The public names, imported yet or not."""
    return sorted([*_PLACES, "__version__", "__doc__"])
