"""Pure measures: arrays and tables in, numbers and tables out. No model and no torch here."""
