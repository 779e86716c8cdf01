"""From what `-f` names to documents, and from documents to resources."""
