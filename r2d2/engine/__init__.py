"""The R2D2 Engine: one verb a file, behind the command line and the dashboard alike."""
