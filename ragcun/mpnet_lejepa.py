"""Where the founding notes import the JEPA system from."""

from ragcun.models.systems import MPNetLeJEPAIG as MPNetLeJEPAIG
