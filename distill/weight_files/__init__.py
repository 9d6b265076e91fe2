"""Files of weights as others write them: how they are read, and where in them the weights of a network lie."""
