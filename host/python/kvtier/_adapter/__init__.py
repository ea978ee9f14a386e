"""What the adapters for LMCache, vLLM and SGLang share. Nothing here imports a serving runtime."""

from kvtier._adapter.guard import Guard as Guard
from kvtier._adapter.guard import guarded as guarded
from kvtier._adapter.interface import RuntimeMismatch as RuntimeMismatch
from kvtier._adapter.interface import check_interface as check_interface
from kvtier._adapter.pins import LookupPins as LookupPins
from kvtier._adapter.section import open_storage as open_storage
from kvtier._adapter.section import read_section as read_section
