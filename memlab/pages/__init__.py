"""HTML pages for readers who install nothing: executed notebooks and cards of vectors. Charts stay alive, offline."""
