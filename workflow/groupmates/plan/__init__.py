"""What a run will cost: sizes of its inputs, work of its stages, rates that were measured."""
