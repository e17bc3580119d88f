"""Runs: the folder that one training writes, and its files."""

from multistream.checksums import SUMS as SUMS
from multistream.checksums import check_checksum as check_checksum
from multistream.checksums import remove_checksums as remove_checksums
from multistream.checksums import write_checksums as write_checksums
from multistream.runs.folder import CHECKPOINTS as CHECKPOINTS
from multistream.runs.folder import FOLDS as FOLDS
from multistream.runs.folder import METRICS as METRICS
from multistream.runs.folder import PREDICTIONS as PREDICTIONS
from multistream.runs.folder import PROBE as PROBE
from multistream.runs.folder import RECIPE as RECIPE
from multistream.runs.folder import SPLIT as SPLIT
from multistream.runs.folder import SUMMARY as SUMMARY
from multistream.runs.folder import append_line as append_line
from multistream.runs.folder import check_unused as check_unused
from multistream.runs.folder import first_free as first_free
from multistream.runs.folder import folder_of as folder_of
from multistream.runs.folder import new_run as new_run
from multistream.runs.folder import read_lines as read_lines
from multistream.runs.folder import read_summary as read_summary
from multistream.runs.folder import write_json as write_json
from multistream.runs.folder import write_lines as write_lines
