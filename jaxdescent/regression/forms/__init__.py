"""Forms of a regression that are objectives of their own and need no X once they are built."""

from jaxdescent.regression.forms.dual import DualForm as DualForm
from jaxdescent.regression.forms.dual import dual_build_bytes as dual_build_bytes
from jaxdescent.regression.forms.dual import dual_form_bytes as dual_form_bytes
from jaxdescent.regression.forms.gram import GramForm as GramForm
from jaxdescent.regression.forms.gram import gram_build_bytes as gram_build_bytes
from jaxdescent.regression.forms.gram import gram_form_bytes as gram_form_bytes
from jaxdescent.regression.forms.ridge_path import ridge_path as ridge_path
