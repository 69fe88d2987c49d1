"""How far a run is: states from campaign, records and SLURM's queue, and how they are shown."""
