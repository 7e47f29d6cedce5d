"""Forms of a regression that are objectives of their own and need no X once they are built."""

from jaxdescent.regression.forms.gram import GramForm as GramForm
