"""`planfix-bridge` over fakes, which need no time: calls are not paced, and jobs are looked at without a pause."""

import pytest

from bridge.cli import main
from providers.testing.fake import without_waits
from tests.end_to_end import look_at_jobs_at_once

if __name__ == "__main__":
    patches = pytest.MonkeyPatch()
    without_waits(patches)
    look_at_jobs_at_once(patches.setattr)
    main()
