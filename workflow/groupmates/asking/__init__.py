"""Questions about a run: why was this document selected, what is this artefact, is it stale?"""
