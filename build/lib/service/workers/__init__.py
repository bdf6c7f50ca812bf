"""Workers: they run the turns of one stage, text or image, on an engine."""
