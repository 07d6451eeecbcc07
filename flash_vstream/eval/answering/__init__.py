"""From a question to a prediction. What decides a prediction lies in the folders of `identity.DECIDING_CODE`."""
