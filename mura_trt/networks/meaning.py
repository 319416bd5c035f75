"""What a graph's numbers are: logits, probabilities or classes, and which of them speaks for abnormal."""

from __future__ import annotations

from dataclasses import replace

from mura_trt.errors import UsageError
from mura_trt.networks.tail import Ending
from mura_trt.networks.told import CLASSES, LOGIT, PROBABILITY, Facts, Told


def kind_of(told: Told, columns: int, ending: Ending) -> str:
    """What the numbers are, one of ``KINDS``: by the graph's last step where that says it, else by the user's word.

    Parameters
    ----------
    told
        The user's word.
    columns
        How many numbers a picture gets.
    ending
        The graph's last step.

    Raises
    ------
    UsageError
        Neither says it, or one contradicts the other.
    """
    by_graph = {None: None, "Sigmoid": PROBABILITY, "Softmax": PROBABILITY, "LogSoftmax": CLASSES}[ending.squasher]
    if by_graph and told.scores not in (None, by_graph):
        raise UsageError(
            f"{told.model}: its graph ends in {ending.squasher}, so that what it gives is a {by_graph}, not --scores"
            f" {told.scores}; leave that out"
        )
    if ending.squasher == "Softmax" and columns == 1:
        raise UsageError(f"{told.model}: a Softmax of one number is 1 whatever the picture; export two classes")
    scores = by_graph or told.scores or (LOGIT if columns == 1 else None)
    if scores is None:
        raise UsageError(
            f"{told.model}: it gives {columns} numbers for a picture, and neither Sigmoid nor Softmax at its end says"
            " what they are; tell: --scores classes (trained with cross-entropy: softmax over two), --scores logit"
            " (each with a sigmoid of its own) or --scores probability"
        )
    if scores == CLASSES and columns != 2:
        raise UsageError(
            f"{told.model}: --scores classes takes two classes, and it gives {columns} number{'s'[: columns > 1]};"
            " of more classes, export the network with its softmax, and --abnormal picks one"
        )
    return scores


def abnormal_of(told: Told, columns: int) -> int:
    """Which of the numbers is the abnormal class's, from 0; raises UsageError where that is not told, or not there."""
    if columns == 1:
        if told.abnormal not in (None, 0):
            raise UsageError(f"{told.model}: --abnormal {told.abnormal}, and it gives one number; leave that out")
        return 0
    if told.abnormal is None:
        raise UsageError(
            f"{told.model}: it gives {columns} numbers for a picture; tell which is the abnormal class's: --abnormal"
            f" {columns - 1}, counted from 0"
        )
    if told.abnormal >= columns:
        raise UsageError(f"{told.model}: --abnormal {told.abnormal}, and its columns are 0 to {columns - 1}")
    return told.abnormal


def before_ending(facts: Facts, ending: Ending) -> Facts:
    """What the tensor before the last step gives, where that step is ours to do: the logit comes of it exactly."""
    if ending.squasher == "Sigmoid":
        return replace(facts, scores=LOGIT)
    if ending.squasher in ("Softmax", "LogSoftmax") and facts.columns == 2:
        return replace(facts, scores=CLASSES)
    return facts
