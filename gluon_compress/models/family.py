"""The kinds of nets that are deployed; a stand-in until the family interface is in."""

from __future__ import annotations

from typing import Any

from gluoncv.model_zoo.ssd import SSD

from gluon_compress.data import Preprocess
from gluon_compress.models import classifier_inference, ssd_inference
from gluon_compress.postprocess import SoftmaxPostprocess


class SSDFamily:
    """Deployment of SSDs."""

    kind = "ssd"
    preprocess = staticmethod(ssd_inference.preprocess)
    postprocess = staticmethod(ssd_inference.postprocess)
    inference_graph = staticmethod(ssd_inference.inference_graph)
    results_graph = staticmethod(ssd_inference.results_graph)

    @staticmethod
    def classes_of(net: Any) -> tuple:
        """Return the names of the classes."""
        return tuple(net.classes)

    @staticmethod
    def results(net: Any, batch: Any) -> tuple:
        """Return ids, scores and corner boxes."""
        return tuple(part.asnumpy() for part in net(batch))


class ClassifierFamily:
    """Deployment of classifiers."""

    kind = "classifier"
    inference_graph = staticmethod(classifier_inference.inference_graph)

    @staticmethod
    def preprocess(net: Any) -> Preprocess:
        """Return how images are validated."""
        return Preprocess.centre_crop(*net.input_size)

    @staticmethod
    def postprocess(net: Any) -> SoftmaxPostprocess:
        """Return the most probable classes."""
        return SoftmaxPostprocess()

    @staticmethod
    def results_graph(net: Any) -> None:
        """There is none."""

    @staticmethod
    def classes_of(net: Any) -> tuple:
        """Return the names of the classes."""
        return tuple(net.classes)


def family_of(net: Any) -> Any:
    """Return the family of a net."""
    return SSDFamily if isinstance(net, SSD) else ClassifierFamily
