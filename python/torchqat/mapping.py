"""Which class replaces which: float -> QAT (prepare) and QAT -> deployed (convert). New layers are added here."""

from torch import nn

from torchqat.nn import qat

# Exact types: a subclass may use its weight in ways of its own.
FLOAT_TO_QAT = {
    nn.Linear: qat.Linear,
    nn.Conv1d: qat.Conv1d,
    nn.Conv2d: qat.Conv2d,
    nn.Conv3d: qat.Conv3d,
    nn.Embedding: qat.Embedding,
    nn.EmbeddingBag: qat.EmbeddingBag,
}

# Convolution -> (BatchNorm types that fold into it, the folded layer).
CONV_BN_TO_QAT = {
    nn.Conv1d: ((nn.BatchNorm1d, nn.SyncBatchNorm), qat.ConvBn1d),
    nn.Conv2d: ((nn.BatchNorm2d, nn.SyncBatchNorm), qat.ConvBn2d),
    nn.Conv3d: ((nn.BatchNorm3d, nn.SyncBatchNorm), qat.ConvBn3d),
}

# Modules that quantise indices' rows: an activation spec means nothing to them.
INDEX_INPUT = (nn.Embedding, nn.EmbeddingBag)
