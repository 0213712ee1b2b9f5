"""Records that travel: checked, packed, merged, and scored again from their stored predictions. Imports no torch."""
