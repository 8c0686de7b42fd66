"""How many examples Hypothesis draws: few by default, all with HYPOTHESIS_PROFILE=thorough.

No profile has a deadline: on a busy machine an example may take any time.
"""

import os

from hypothesis import settings

THOROUGH = "thorough"
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")

settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile(THOROUGH, deadline=None, max_examples=100)
settings.load_profile(PROFILE)


def examples(thorough: int) -> int:
    """Return how many examples a test draws in this profile.

    Args:
        thorough: The number in the profile `thorough`. By default a fifth of it is drawn, and at least 5.
    """
    return thorough if PROFILE == THOROUGH else min(thorough, max(5, thorough // 5))
