"""The live page of a server: what it shows (:mod:`status`), recordings dropped on it (:mod:`recording`), and its routes (:mod:`routes`)."""
