"""The papers' protocols that train something, and compare it."""

from bidsrep.training.protocols import brainid_training, cifl, pepsi, seqinv
from bidsrep.training.protocols.comparison import ComparisonProtocol

COMPARISONS = {
    "brainid-downstream": ComparisonProtocol(
        brainid_training.downstream,
        brainid_training.SIZES_OF_TASKS,
        {},
        "CIFL is Brain-ID's network, pre-trained here with CIFL's loss; Brain-ID's weights were trained longer",
    ),
    "brainid-ablation": ComparisonProtocol(
        brainid_training.ablation,
        brainid_training.SIZES_OF_ABLATION,
        brainid_training.PUBLISHED_ABLATION,
        "every row is pre-trained here from scratch; the mini-batch of 4 persons is not in the paper's figures",
    ),
    "brainid-data-fraction": ComparisonProtocol(
        brainid_training.data_fraction,
        brainid_training.SIZES_OF_FRACTIONS,
        {},
        "the steps are the same for every fraction",
        brainid_training.SHARES,
        labelled=True,
    ),
    "pepsi-segmentation": ComparisonProtocol(
        pepsi.segmentation,
        pepsi.SIZES_OF_LESIONS,
        pepsi.PUBLISHED_LESIONS,
        "the paper's rows are PEPSI's, with pre-training, on acquired scans of each data set",
    ),
    "pepsi-synthesis": ComparisonProtocol(
        pepsi.synthesis,
        pepsi.SIZES_OF_SYNTHESIS,
        {},
        "the variants are trained here from scratch, as long as each other; the weights were trained longer",
    ),
    "seqinv-tissue": ComparisonProtocol(seqinv.tissue, seqinv.SIZES, {}, seqinv.NOTE, seqinv.SHARES),
    "seqinv-lesion": ComparisonProtocol(
        seqinv.lesion, seqinv.SIZES_OF_LESIONS, {}, seqinv.NOTE, seqinv.SHARES
    ),
    "seqinv-denoise": ComparisonProtocol(seqinv.denoise, seqinv.SIZES, {}, seqinv.NOTE, seqinv.SHARES),
    "cifl-transfer": ComparisonProtocol(
        cifl.transfer,
        cifl.SIZES,
        cifl.PUBLISHED,
        "the paper registers with VoxelMorph trained on features and compares it with one on raw images; here "
        "each pair is optimised, and ANTs stands beside it. The thalamus is not among the tissues",
    ),
}
