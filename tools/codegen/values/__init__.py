"""The chart's values, typed: one source of chart/values.yaml, values.schema.json and the table in chart/README.md.

Every setting may arrive as a string, because Azure Arc passes all of them so: "120" is a number and "false" is false,
here as in the templates.
"""

from tools.codegen.values.chart import ChartValues
from tools.codegen.values.pod import IMAGE_USER, PROXY_URL, ImageReference
from tools.codegen.values.release_test import HelmTest, TestImage
from tools.codegen.values.schema import schema
from tools.codegen.values.walk import GroupNode, LeafValue, walk

__all__ = [
    "IMAGE_USER",
    "PROXY_URL",
    "ChartValues",
    "GroupNode",
    "HelmTest",
    "ImageReference",
    "LeafValue",
    "TestImage",
    "schema",
    "walk",
]
