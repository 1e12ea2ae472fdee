"""The evidence behind one score: what moved it, what moved in the face, and a report that a clinician can question."""
