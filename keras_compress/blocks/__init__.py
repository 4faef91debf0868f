"""Compact blocks: functions that take a Keras tensor and return one, built of plain Keras layers.

```python
from keras_compress import blocks

x = blocks.inverted_residual(x, 32, expansion=6, strides=2, name="block1")
model = blocks.models.mobilenet_v2((28, 28, 1), width=0.5)
```
"""

from keras_compress.blocks import models as models
from keras_compress.blocks import scale as scale
from keras_compress.blocks.active_shift import ActiveShift as ActiveShift
from keras_compress.blocks.channel_shuffle import channel_shuffle as channel_shuffle
from keras_compress.blocks.channel_split import channel_split_unit as channel_split_unit
from keras_compress.blocks.dense_block import dense_block as dense_block
from keras_compress.blocks.dense_block import transition as transition
from keras_compress.blocks.dilated import aspp as aspp
from keras_compress.blocks.dilated import dilated as dilated
from keras_compress.blocks.ghost import ghost_bottleneck as ghost_bottleneck
from keras_compress.blocks.ghost import ghost_module as ghost_module
from keras_compress.blocks.inverted_residual import inverted_residual as inverted_residual
from keras_compress.blocks.light_conv import LightweightConv1D as LightweightConv1D
from keras_compress.blocks.light_conv import light_conv as light_conv
from keras_compress.blocks.mb_conv import fused_mb_conv as fused_mb_conv
from keras_compress.blocks.mb_conv import mb_conv as mb_conv
from keras_compress.blocks.residual import basic_residual as basic_residual
from keras_compress.blocks.residual import bottleneck as bottleneck
from keras_compress.blocks.separable import separable as separable
from keras_compress.blocks.shift import Shift as Shift
from keras_compress.blocks.shift import shift_block as shift_block
from keras_compress.blocks.shuffle_unit import shuffle_unit as shuffle_unit
from keras_compress.blocks.squeeze_excitation import squeeze_excitation as squeeze_excitation
from keras_compress.blocks.sspq import sspq_block as sspq_block
