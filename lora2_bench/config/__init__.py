"""The command line and conf/, composed by Hydra into plans. The only room that imports Hydra."""
