"""What `eloquent chat` tells about an answer: a table for people, keys for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from eloquent.protocol.wire import MAX_DATAGRAM
from eloquent.reply import Reply
from eloquent.stats import ConnectionStats
