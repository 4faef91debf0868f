"""The checks that every method must pass: those of this package in its tests, those of others by `check`.

```python
from keras_compress import testing

def test_my_method():
    testing.check(MyQuantizer)
```
"""

from keras_compress.testing.checks import check, check_channel_rule
from keras_compress.testing.sample import Sample

__all__ = ["Sample", "check", "check_channel_rule"]
