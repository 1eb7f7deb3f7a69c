"""Answers to the lessons' exercises: is it right, and what does a wrong one tell?

One function an exercise, a module a lesson; none raises. The right answer is asked of the model
each time, so that it follows the model when a driver row is corrected; the hints are the usual
wrong answers, and stand only here.

Where this stops: a check judges the answer, not the way to it.
"""

from .aftermath import left_behind_by_6_3, open_on_the_way
from .audit import a_broken_promise, three_steps
from .detach import belief_parts_from_hardware, dead_code
from .domains import a_window, devices_to_take
from .feedback import Feedback
from .kernels import where_else_they_part
from .objection import a_leak, blocked_in_name_only
from .own_driver import blocks_qcom_twice, blocks_s390
from .ownership import devices_to_unbind, nothing_is_ever_open
from .platform_dma import blocks_and_gives_back, first_half_alone
from .speed import a_checker
from .start import releases_that_let_it_write

__all__ = [
    "Feedback",
    "a_broken_promise",
    "a_checker",
    "a_leak",
    "a_window",
    "belief_parts_from_hardware",
    "blocked_in_name_only",
    "blocks_and_gives_back",
    "blocks_qcom_twice",
    "blocks_s390",
    "dead_code",
    "devices_to_take",
    "devices_to_unbind",
    "first_half_alone",
    "left_behind_by_6_3",
    "nothing_is_ever_open",
    "open_on_the_way",
    "releases_that_let_it_write",
    "three_steps",
    "where_else_they_part",
]
