"""The laboratory: it runs studies, in folders that resume, and shows what came out."""
